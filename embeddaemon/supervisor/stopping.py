"""From the first signal to the exit: requests end, workers drain, the rest is killed, everything is reaped. Pure."""

from __future__ import annotations

from embeddaemon.errors import Draining
from embeddaemon.supervisor.commands import Exit
from embeddaemon.supervisor.memory.needs import keep_when_due
from embeddaemon.supervisor.processes.departures import drain, end_child
from embeddaemon.supervisor.processes.lifecycle import DeathClass
from embeddaemon.supervisor.requests.life import end_with_error, refuse
from embeddaemon.supervisor.sickness import checkups
from embeddaemon.supervisor.state import State

STOP_SECONDS = 3.0
"""Between telling the processes to go and giving up on those that do not: idle workers go in milliseconds."""


def drain_requested(state: State, reason: str, now: float) -> None:
    """Asked once: finish what is held. Asked again: stop at once; a third time changes nothing."""
    if state.drain_deadline is None:
        state.drain_deadline = now + state.settings.drain_seconds
        state.log("info", "draining", reason=reason, open=len(state.open))
        return
    if state.stop_deadline is None:
        _tell_all_to_go(state, now)
    assert state.stop_deadline is not None
    state.stop_deadline = min(state.stop_deadline, now)


def advance_stop(state: State, now: float) -> None:
    """One step further on the way out, if it is time for it."""
    if state.is_over or state.drain_deadline is None:
        return
    if state.stop_deadline is None and (not state.open or now >= state.drain_deadline):
        _tell_all_to_go(state, now)
    if state.stop_deadline is None:
        return
    if now >= state.stop_deadline or not any(model.workers for model in state.models.values()):
        for child in [each for each in state.children.values() if each.ending is None]:
            end_child(state, child, DeathClass.STOPPED, now)
    if not state.children or now >= state.stop_deadline + STOP_SECONDS:
        state.is_over = True
        keep_when_due(state, now, at_once=True)
        state.log("info", "stopped", unreaped=len(state.children))
        state.commands.append(Exit(0))


def _tell_all_to_go(state: State, now: float) -> None:
    """Whatever is still open is answered; workers drain, and everybody else goes when they have gone."""
    state.stop_deadline = now + STOP_SECONDS
    checkups.give_up_all(state, now, "the daemon is stopping")
    for entry in list(state.open.values()):
        end_with_error(state, entry, Draining("the daemon stopped before the request could finish"))
    for model in state.models.values():
        model.is_wanted = False
        model.stop_waiting()
        for waiters in model.waiters:
            for waiter in waiters:
                refuse(state, waiter.client, waiter.id, Draining("the daemon is stopping"))
            waiters.clear()
        for worker in list(model.workers.values()):
            drain(state, worker, now)
