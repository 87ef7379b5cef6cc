"""The look at everything that comes round several times a second: silence, loads that take too long, idleness, memory. Pure."""

from __future__ import annotations

from embeddaemon.supervisor import admission
from embeddaemon.supervisor.commands import TakeSample
from embeddaemon.supervisor.endings import give_up
from embeddaemon.supervisor.lifecycle import COMING, DeathClass, WorkerState
from embeddaemon.supervisor.requests import is_idle, refuse
from embeddaemon.supervisor.staffing import SCALE_DOWN_AFTER_SECONDS, drain, end_child, staff_all, unload
from embeddaemon.supervisor.state import ChildKind, ModelState, State

HOUSEKEEPING_SECONDS = 0.2
"""How often, while there is anything to look after."""

SAMPLE_SECONDS = 1.0
"""Between two samples of memory: cheap (some small files), and the governor's numbers are no older than this."""

FORK_SECONDS = 30.0
"""A forked worker that is not READY after so long will not be: forking takes milliseconds."""


def look_after(state: State, now: float) -> None:
    """Everything that depends on time alone."""
    for model in state.models.values():
        _look_after_workers(state, model, now)
        _expire_waiters(state, model, now)
        _send_idle_away(state, model, now)
    for child in list(state.children.values()):
        if (
            not child.is_ready
            and child.kind is not ChildKind.WORKER
            and now - child.started_at > state.settings.load_timeout_seconds
        ):
            state.log("error", "load_timeout", what=child.kind.value, model=child.model, child=child.number)
            end_child(state, child.number, DeathClass.LOAD_TIMEOUT)
    if state.children and now - state.sampled_at >= SAMPLE_SECONDS:
        state.sampled_at = now
        state.commands.append(TakeSample())
    staff_all(state, now)


def _look_after_workers(state: State, model: ModelState, now: float) -> None:
    for worker in list(model.workers.values()):
        child = state.children[worker.child]
        if child.ending is not None:
            continue
        ready_by = (
            FORK_SECONDS
            if child.parent is not None and model.template is not None
            else state.settings.load_timeout_seconds
        )
        if worker.state in COMING and now - worker.started_at > ready_by:
            give_up(state, worker, DeathClass.LOAD_TIMEOUT)
        elif (worker.state not in COMING and now - worker.heard_at > state.settings.silent_after_seconds) or (worker.drain_by is not None and now > worker.drain_by):
            give_up(state, worker, DeathClass.SILENT)


def _expire_waiters(state: State, model: ModelState, now: float) -> None:
    for waiters in (model.load_waiters, model.unload_waiters):
        for waiter in [each for each in waiters if now >= each.deadline]:
            waiters.remove(waiter)
            refuse(state, waiter.client, waiter.id, admission.expiry_of(model, is_dispatched=False))


def _send_idle_away(state: State, model: ModelState, now: float) -> None:
    if model.is_unloading or not model.serving or not is_idle(model):
        return
    spec = model.spec
    if not spec.pinned and not spec.stays_for_ever and now - model.last_used >= spec.keep_alive_seconds:
        state.log("info", "keep_alive_over", model=model.name, idle_seconds=round(now - model.last_used, 1))
        unload(state, model, now, wanted=False)
        return
    beyond = len(model.workers) - spec.workers.min
    for worker in sorted(model.workers.values(), key=lambda each: each.idle_since)[: max(0, beyond)]:
        if worker.state is WorkerState.READY and now - worker.idle_since >= SCALE_DOWN_AFTER_SECONDS:
            drain(state, worker, now)


def is_anything_alive(state: State) -> bool:
    return bool(state.children or state.open) or any(
        model.is_wanted or model.load_waiters for model in state.models.values()
    )
