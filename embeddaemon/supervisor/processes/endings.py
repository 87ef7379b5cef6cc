"""What follows when a process is lost, fails to load, or is reaped: leases, records, requests, back-off. Pure."""

from __future__ import annotations

from embeddaemon.errors import EmbedDaemonError, FailedLoad, ModelChanged, Quarantined, WorkerCrashed
from embeddaemon.supervisor.changes.reload import end_outgoing, fetched_for_successor, successor_gone
from embeddaemon.supervisor.commands import Forget, Kill
from embeddaemon.supervisor.memory.learning import needs_fork_server
from embeddaemon.supervisor.memory.leases import release
from embeddaemon.supervisor.memory.needs import needs_more
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.address_space import with_limit
from embeddaemon.supervisor.processes.child import Child, ChildKind
from embeddaemon.supervisor.processes.departures import end_child, unload, worker_of
from embeddaemon.supervisor.processes.lifecycle import BLAMELESS, DeathClass, Worker, WorkerState, classify, explain
from embeddaemon.supervisor.processes.staffing import staff_all
from embeddaemon.supervisor.requests.admission import refusal_of
from embeddaemon.supervisor.requests.life import answer_unloaded, fail_all, pump, refuse_waiters
from embeddaemon.supervisor.sickness.blame import take_back
from embeddaemon.supervisor.sickness.canary import is_model_doubted
from embeddaemon.supervisor.sickness.intensity import FREE_FAILURES, back_off_seconds, limit_of
from embeddaemon.supervisor.state import State

_NOBODY = 0
"""Of no child: a folder that could not be read."""

WRITE_OFF_SECONDS = 10.0
"""After which an orphan that was killed and never reported counts as reaped: its lease must not be gone for ever."""


def child_ended(state: State, number: int, exit_code: int | None, now: float, *, orphan: bool = False) -> None:
    """A process was reaped: its lease is back. Then what its kind calls for; whoever waited for memory gets a try."""
    child = state.children.get(number)
    if child is None:
        return
    parent = None if child.parent is None else state.children.get(child.parent)
    if orphan and parent is not None:
        _lose(state, parent, now)
    _bury(state, child, _death_of(state, child, exit_code, is_orphan=orphan), exit_code, now)
    _settle(state, now)


def control_lost(state: State, child: Child, now: float) -> None:
    """Its control socket is at end-of-file: it is going, and takes those below it along. Its end is still to come."""
    _lose(state, child, now)
    _settle(state, now)


def _lose(state: State, child: Child, now: float) -> None:
    """No more orders to it; killed for certainty. Requests are taken back at once, leases when each is reaped."""
    if child.is_lost:
        return
    child.lost_at = now
    state.commands.append(Kill(child.number))
    for below in list(state.children_of(child.number)):
        _orphan(state, below, now)


def _orphan(state: State, child: Child, now: float) -> None:
    """The process above ``child`` is gone or going, and so is the child: take back what it held, without blame."""
    for below in list(state.children_of(child.number)):
        _orphan(state, below, now)
    if child.lost_at is None:
        child.lost_at = now
    worker = worker_of(state, child)
    if worker is not None:
        _worker_gone(state, worker, child, DeathClass.PARENT_DIED, now, exit_code=None)
    if child.pid is None:
        # Nobody told us its process, so nobody can tell us its end: it finds its parent gone and exits by itself.
        _bury(state, child, child.ending or DeathClass.PARENT_DIED, None, now)
    else:
        end_child(state, child, DeathClass.PARENT_DIED, now)


def write_off(state: State, now: float) -> None:
    """Orphans whose end nobody reports: whoever reaped them died before it could say so. They were killed long ago."""
    for child in list(state.children.values()):
        is_orphan = child.parent is not None and child.parent not in state.children
        if is_orphan and child.lost_at is not None and now - child.lost_at > WRITE_OFF_SECONDS:
            state.log("error", "written_off", what=child.kind.value, model=child.model, pid=child.pid)
            child_ended(state, child.number, None, now, orphan=True)


def _death_of(state: State, child: Child, exit_code: int | None, *, is_orphan: bool) -> DeathClass:
    """Why it ended: what we ended it for, else its parent's end, else what its exit code says."""
    if child.ending is not None:
        return child.ending
    if is_orphan:
        return DeathClass.PARENT_DIED
    if child.load_error is not None and not child.is_ready:
        return DeathClass.LOAD_FAILED  # it said so itself; that we killed it when it closed its socket changes nothing
    if child.kernel_kill is not None:
        by_hard_limit = child.kernel_kill.by_hard_limit
        return DeathClass.OUT_OF_MEMORY if by_hard_limit else DeathClass.MACHINE_OUT_OF_MEMORY
    death = classify(exit_code)
    worker = worker_of(state, child)
    was_asked = worker is not None and worker.state is WorkerState.DRAINING
    if death is DeathClass.TERMINATED and (was_asked or state.is_draining):
        return DeathClass.STOPPED  # whoever stops us may tell all of us
    return DeathClass.EXITED if death is DeathClass.STOPPED and not was_asked else death


def _bury(state: State, child: Child, death: DeathClass, exit_code: int | None, now: float) -> None:
    """The one place where a child's record and lease end; no exit code: nobody will report its end."""
    if state.children.pop(child.number, None) is None:
        return
    if exit_code is None:
        state.commands.append(Forget(child.number))
    release(state, child, now)
    match child.kind:
        case ChildKind.WORKER:
            worker = worker_of(state, child)
            if worker is not None:
                _worker_gone(state, worker, child, death, now, exit_code=exit_code)
        case ChildKind.TEMPLATE:
            _template_gone(state, child, death, exit_code, now)
        case ChildKind.FETCHER:
            _fetcher_gone(state, child, death, exit_code, now)
        case ChildKind.FORK_SERVER:
            _fork_server_gone(state, child, death, exit_code, now)
    for below in list(state.children_of(child.number)):
        _orphan(state, below, now)


def _settle(state: State, now: float) -> None:
    """After an end: unloads may be done, memory may be free, and what was taken back may suit a worker that lives."""
    for model in state.models.values():
        end_outgoing(state, model, now)
        _finish_unload(state, model, now)
        if model.intensity.is_quarantined(now) and (refusal := refusal_of(model, now)) is not None:
            fail_all(state, model, refusal)  # it was served by what has gone now
            refuse_waiters(state, model, refusal)
    staff_all(state, now)
    for model in state.models.values():
        pump(state, model, now)


def _finish_unload(state: State, model: ModelState, now: float) -> None:
    if not model.is_unloading or model.workers:
        return
    template = state.template_of(model)
    if template is not None:
        if not template.is_leaving:
            end_child(state, template, DeathClass.STOPPED, now)
        return
    if any(child.model == model.name for child in state.children.values()):
        return
    model.is_unloading = False
    state.log("info", "unloaded", model=model.name)
    answer_unloaded(state, model)


def _worker_gone(
    state: State, worker: Worker, child: Child, death: DeathClass, now: float, *, exit_code: int | None
) -> None:
    """An incarnation is over, on purpose or not: its requests are taken back and the slot is free for the next."""
    model = state.models[worker.model]
    is_stopped, held = death is DeathClass.STOPPED, worker.in_flight
    was_through = worker.state is WorkerState.DRAINING and not held
    worker.becomes(WorkerState.STOPPED if is_stopped and was_through else WorkerState.FAILED, now)
    del model.workers[worker.slot], state.workers[worker.number]
    if child.number == model.watch.successor:
        successor_gone(state, model, child, death, exit_code)
        return
    if is_stopped or (death is DeathClass.PARENT_DIED and state.stop_deadline is not None):
        state.log("info", "worker_stopped", worker=worker.label, exit_code=exit_code, held=held)
        take_back(state, worker, child, death, now, exit_code=exit_code)
        return
    model.deaths[death.value] += 1
    if death is DeathClass.OUT_OF_MEMORY:
        needs_more(state, model)
    state.log("warning", "worker_died", worker=worker.label, death=death.value, exit_code=exit_code, held=held)
    is_solved = take_back(state, worker, child, death, now, exit_code=exit_code)
    error = WorkerCrashed(f"a worker of model {model.name!r} {explain(death, exit_code)}")
    if death is DeathClass.CANARY_FAILED:
        state.cache.clear()  # what it answered before may be wrong as well
        if is_model_doubted(model):
            _quarantine(state, model, error, now)
            _load_anew(state, model, now)
    elif death is DeathClass.LOAD_FAILED:
        text = f"model {model.name!r} could not be loaded; the daemon's log says why"
        load_failed(state, model, child.load_error or FailedLoad(text), now)
    elif death not in BLAMELESS and not is_solved:
        _back_off(state, model, with_limit(state.machine, error), now, child=child.number)


def _load_anew(state: State, model: ModelState, now: float) -> None:
    """Send all of it away: whatever is wrong may be in the template, and in what still serves."""
    is_wanted = model.is_wanted
    unload(state, model, now)
    model.is_wanted = is_wanted


def _template_gone(state: State, child: Child, death: DeathClass, exit_code: int | None, now: float) -> None:
    model = state.models[child.model or ""]
    if child.number == model.watch.successor:
        successor_gone(state, model, child, death, exit_code)
        return
    if child.number != model.template:
        state.log("info", "template_stopped", model=model.name, why=death.value)
        return
    model.template = None
    if (successor := state.children.get(model.watch.successor or 0)) is not None:
        # Nothing serves that it would be loaded beside: the folder is read again anyway.
        end_child(state, successor, DeathClass.STOPPED, now)
        model.watch.abandon()
    if death in BLAMELESS:
        state.log("info", "template_stopped", model=model.name, why=death.value)
        return
    model.deaths[f"template_{death.value}"] += 1
    text = f"the template of model {model.name!r} {explain(death, exit_code)}"
    if child.load_error is not None or death is DeathClass.LOAD_FAILED:
        load_failed(state, model, child.load_error or FailedLoad(f"{text}; the daemon's log says why"), now)
        return
    state.log("warning", "template_died", model=model.name, death=death.value, exit_code=exit_code)
    _back_off(state, model, with_limit(state.machine, WorkerCrashed(text)), now, child=child.number)


def _fetcher_gone(state: State, child: Child, death: DeathClass, exit_code: int | None, now: float) -> None:
    model = state.models[child.model or ""]
    if child.number != model.fetcher:
        if child.number == model.watch.fetcher:
            fetched_for_successor(state, model, child, death, exit_code)
        return
    model.fetcher = None
    if death not in BLAMELESS and model.folder is None:
        text = f"fetching {model.spec.source} {explain(death, exit_code)}"
        load_failed(state, model, child.load_error or FailedLoad(text), now)


def _fork_server_gone(state: State, child: Child, death: DeathClass, exit_code: int | None, now: float) -> None:
    state.fork_server = None
    if death in BLAMELESS:
        return
    state.fork_server_failures += 1
    # While it imports it may be killed like any other process; what it says itself will be said again.
    was_killed = child.load_error is None and child.ending is None and exit_code is not None and exit_code < 0
    free = FREE_FAILURES if child.is_ready or was_killed else 0
    state.fork_server_retry_at = now + back_off_seconds(state.fork_server_failures - free, state.random())
    state.log("error", "fork_server_died", death=death.value, exit_code=exit_code, was_ready=child.is_ready)
    if child.is_ready or (was_killed and state.fork_server_failures <= FREE_FAILURES):
        return
    error = child.load_error or FailedLoad(f"the fork server {explain(death, exit_code)}; the daemon's log says why")
    for model in state.models.values():
        if model.is_wanted and not model.workers and needs_fork_server(state, model):
            load_failed(state, model, error, now)


def load_failed(state: State, model: ModelState, error: EmbedDaemonError, now: float) -> None:
    """Loading failed for a reason that is known: whoever waits gets it, and it is not tried again for a while."""
    if isinstance(error, ModelChanged) and not model.failures and not model.workers:
        # Nobody's fault, and over by now: as it is now it is read again at once, and whoever waits goes on waiting.
        model.failures, model.is_card_fresh = 1, False
        state.log("warning", "files_changed_while_loading", model=model.name, error=str(error))
        return
    error = with_limit(state.machine, error)
    _back_off(state, model, error, now, free=0)
    state.log(
        "error",
        "load_failed",
        model=model.name,
        code=error.code,
        error=str(error),
        retry_seconds=round(model.retry_at - now, 1),
    )
    if model.workers:
        return
    # What is read again next time may have been mended meanwhile.
    model.card = model.computed = model.footprint = model.folder = None
    model.is_wanted = False
    model.stop_waiting()
    template = state.template_of(model)
    if template is not None and not template.is_leaving:
        end_child(state, template, DeathClass.STOPPED, now)
    fail_all(state, model, error)
    refuse_waiters(state, model, error)


def _back_off(
    state: State,
    model: ModelState,
    error: EmbedDaemonError,
    now: float,
    *,
    free: int = FREE_FAILURES,
    child: int = _NOBODY,
) -> None:
    model.failures += 1
    if model.intensity.is_quarantined(now):
        return  # what still served: nothing is started before the quarantine is over
    model.error = error
    model.retry_at = now + back_off_seconds(model.failures - free, state.random())
    if model.intensity.failed(child, now, limit_of(state.settings)):
        _quarantine(state, model, error, now)


def _quarantine(state: State, model: ModelState, error: EmbedDaemonError, now: float) -> None:
    """Nothing of it is started for a while; whoever waits for it is told at once. What still serves goes on."""
    if not model.intensity.is_quarantined(now):
        model.intensity.quarantine(now, limit_of(state.settings))
    model.retry_at = model.intensity.quarantined_until
    seconds = model.retry_at - now
    model.error = Quarantined(
        f"model {model.name!r} failed too often and is in quarantine; `embeddaemon load {model.name} --force` lifts it",
        cause=(str(error),),
        retry_after_ms=max(1, int(seconds * 1000)),
    )
    state.counts["quarantined"] += 1
    state.log("error", "quarantined", model=model.name, seconds=round(seconds, 1), error=str(error))
    if not model.workers:
        fail_all(state, model, model.error)
        refuse_waiters(state, model, model.error)
