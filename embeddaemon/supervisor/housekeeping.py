"""What comes round several times a second: silence, loads that take too long, idleness, memory. Pure."""

from __future__ import annotations

from embeddaemon.errors import Expired
from embeddaemon.supervisor.changes.reconfiguration import retire
from embeddaemon.supervisor.changes.reload import look_at_files
from embeddaemon.supervisor.commands import TakeSample
from embeddaemon.supervisor.memory.needs import keep_when_due
from embeddaemon.supervisor.memory.relief import relieve
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.processes.departures import drain, end_child, give_up, unload
from embeddaemon.supervisor.processes.endings import write_off
from embeddaemon.supervisor.processes.lifecycle import COMING, DeathClass, Worker, WorkerState
from embeddaemon.supervisor.processes.staffing import staff_all
from embeddaemon.supervisor.requests import admission
from embeddaemon.supervisor.requests.life import refuse
from embeddaemon.supervisor.requests.withdrawals import ask_who_is_there
from embeddaemon.supervisor.sickness import canary
from embeddaemon.supervisor.sickness.hanging import is_dumped, look_at_turn
from embeddaemon.supervisor.state import State

HOUSEKEEPING_SECONDS = 0.2
"""How often, while there is anything to look after."""

SAMPLE_SECONDS = 1.0
"""Between two samples of memory: cheap (some small files), and the governor's numbers are no older than this."""

FORK_SECONDS = 15.0
"""What was not forked, or a forked worker that is not READY, after so long will not be: forking takes milliseconds."""

REPORT_SECONDS = 5.0
"""From a kill until its end must be reported: whoever forked it and says nothing stands still itself."""

SCALE_DOWN_AFTER_SECONDS = 30.0
"""A worker beyond the minimum that is idle so long goes."""

STANDSTILL_SECONDS = 2.0
"""When our own look comes so late, we did not run (stopped, or the machine was): silence says nothing then."""


def look_after(state: State, now: float) -> None:
    """Everything that depends on time alone."""
    _forgive_own_silence(state, now)
    for model in state.models.values():
        for worker in list(model.workers.values()):
            _look_after_worker(state, model, worker, now)
        _expire_waiters(state, model, now)
        _send_idle_away(state, model, now)
        _scale_down(state, model, now)
    canary.ask_idle(state, now)
    _end_endless_loads(state, now)
    _end_forkers_that_stand_still(state, now)
    write_off(state, now)
    look_at_files(state, now)
    for model in list(state.models.values()):
        retire(state, model, now)
    ask_who_is_there(state, now)
    if state.children and now - state.sampled_at >= SAMPLE_SECONDS:
        state.sampled_at = now
        state.commands.append(TakeSample())
    relieve(state, now)
    keep_when_due(state, now)
    staff_all(state, now)


def _forgive_own_silence(state: State, now: float) -> None:
    gap = now - state.looked_at
    if gap > STANDSTILL_SECONDS:
        for model in state.models.values():
            for worker in model.workers.values():
                worker.heard_at = now
                worker.started_at += gap
                if worker.drain_by is not None:
                    worker.drain_by += gap
        for child in state.children.values():
            child.started_at += gap
            if child.ending_at is not None:
                child.ending_at += gap
            if child.lost_at is not None:
                child.lost_at += gap
    state.looked_at = now


def _look_after_worker(state: State, model: ModelState, worker: Worker, now: float) -> None:
    child = state.children[worker.child]
    if child.ending is not None or (child.pid is None and child.parent is not None):
        # What is not born yet is its forker's fault.
        return
    ready_by = FORK_SECONDS if model.template is not None else state.settings.load_timeout_seconds
    if worker.state in COMING:
        if now - worker.started_at > ready_by:
            give_up(state, worker, DeathClass.LOAD_TIMEOUT, now)
        return
    silent_seconds = now - worker.heard_at
    if silent_seconds > state.settings.silent_after_seconds:
        if is_dumped(state, child, f"silent for {silent_seconds:.1f} s", now):
            give_up(state, worker, DeathClass.SILENT, now)
    elif worker.drain_by is not None and now > worker.drain_by:
        give_up(state, worker, DeathClass.DRAIN_TIMEOUT, now)
    else:
        look_at_turn(state, worker, child, now)


def _end_endless_loads(state: State, now: float) -> None:
    for child in list(state.children.values()):
        if child.kind is ChildKind.WORKER or child.is_ready or child.is_leaving:
            continue
        if now - child.started_at <= state.settings.load_timeout_seconds:
            continue
        if is_dumped(state, child, "not ready in time", now):
            state.log("error", "load_timeout", what=child.kind.value, model=child.model, child=child.number)
            end_child(state, child, DeathClass.LOAD_TIMEOUT, now)


def _end_forkers_that_stand_still(state: State, now: float) -> None:
    """What it does not fork or does not report would keep its slot, its lease and its model for ever."""
    for child in list(state.children.values()):
        forker = None if child.parent is None else state.children.get(child.parent)
        if forker is None or forker.is_leaving:
            continue
        is_unborn = child.pid is None and now - child.started_at > FORK_SECONDS
        is_unreported = child.ending_at is not None and now - child.ending_at > REPORT_SECONDS
        if (is_unborn or is_unreported) and is_dumped(state, forker, "forks or reports nothing", now):
            state.log("error", "forker_stands_still", what=forker.kind.value, model=forker.model, pid=forker.pid)
            end_child(state, forker, DeathClass.SILENT, now)


def _expire_waiters(state: State, model: ModelState, now: float) -> None:
    for waiter in [each for each in model.load_waiters if now >= each.deadline]:
        model.load_waiters.remove(waiter)
        refuse(state, waiter.client, waiter.id, admission.expiry_of(model, is_dispatched=False))
    for waiter in [each for each in model.replace_waiters if now >= each.deadline]:
        model.replace_waiters.remove(waiter)
        error = Expired(
            f"the deadline passed while new workers of model {model.name!r} were being made; they take over when they "
            "are ready",
            details={"waited_for": "load"},
        )
        refuse(state, waiter.client, waiter.id, error)
    for waiter in [each for each in model.unload_waiters if now >= each.deadline]:
        model.unload_waiters.remove(waiter)
        error = Expired(
            f"the deadline passed while model {model.name!r} was being unloaded", details={"waited_for": "unload"}
        )
        refuse(state, waiter.client, waiter.id, error)


def _send_idle_away(state: State, model: ModelState, now: float) -> None:
    """Its keep-alive is over: also that of a model that does not come up and that nobody waits for any more."""
    spec = model.spec
    is_stuck = model.is_wanted and (model.waiting is not None or model.failures > 0)
    if model.is_unloading or (model.is_absent and not is_stuck):
        return
    if spec.pinned or spec.stays_for_ever or now - model.last_used < spec.keep_alive_seconds:
        return
    if not model.has_work and not _is_coming(state, model):
        state.log("info", "keep_alive_over", model=model.name, idle_seconds=round(now - model.last_used, 1))
        unload(state, model, now)


def _is_coming(state: State, model: ModelState) -> bool:
    template = state.template_of(model)
    return (
        model.is_reading
        or model.fetcher is not None
        or (template is not None and not template.is_ready)
        or any(worker.state in COMING for worker in model.workers.values())
    )


def _scale_down(state: State, model: ModelState, now: float) -> None:
    """One worker beyond the minimum at a time, the one that is idle longest."""
    lasting = model.lasting
    if len(lasting) <= model.spec.workers.min or model.is_unloading:
        return
    idle = [worker for worker in lasting if worker.state is WorkerState.READY]
    longest = min(idle, key=lambda each: each.idle_since, default=None)
    if longest is not None and now - longest.idle_since >= SCALE_DOWN_AFTER_SECONDS:
        drain(state, longest, now)


def is_anything_alive(state: State) -> bool:
    """Whether there is anything to look after."""
    return bool(state.children or state.open or state.askers) or any(
        model.is_wanted or any(model.waiters) for model in state.models.values()
    )
