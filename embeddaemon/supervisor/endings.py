"""What follows when a process becomes ready, fails to load, or ends: leases, records, requests, back-off. Pure."""

from __future__ import annotations

from embeddaemon.errors import EmbedDaemonError, FailedLoad, WorkerCrashed
from embeddaemon.protocol import control, link
from embeddaemon.supervisor.lifecycle import ENDED, DeathClass, Worker, WorkerState, classify, explain
from embeddaemon.supervisor.requests import answer_unloaded, answer_waiters, fail_all, pump, take_back
from embeddaemon.supervisor.staffing import end_child, give_back_reserved, staff_all
from embeddaemon.supervisor.state import Child, ChildKind, ModelState, State

FREE_FAILURES = 1
"""Deaths after which the successor starts at once: a worker is cheap, and most deaths are single."""

FIRST_BACK_OFF_SECONDS = 0.5
LONGEST_BACK_OFF_SECONDS = 30.0


def fork_server_ready(state: State, child: Child, ready: control.ForkServerReady, now: float) -> None:
    child.is_ready, child.pid = True, ready.pid
    state.fork_server_failures = 0
    state.governor.measured(child.holder, ready.private_bytes)
    state.log(
        "info",
        "fork_server_ready",
        pid=ready.pid,
        seconds=round(now - child.started_at, 3),
        private_bytes=ready.private_bytes,
    )
    staff_all(state, now)


def template_ready(state: State, child: Child, ready: control.TemplateReady, now: float) -> None:
    """The peak of loading is over: the lease comes down to what it holds, or to what was estimated if that is less clear."""
    model = state.models[child.model or ""]
    assert model.footprint is not None
    child.is_ready = True
    model.facts, model.loads = dict(ready.facts), model.loads + ready.loads
    rest = max(ready.private_bytes, 1)
    state.governor.lower(child.holder, rest)
    state.governor.measured(child.holder, ready.private_bytes)
    if rest > model.footprint.template_peak_bytes:
        state.log(
            "warning",
            "over_the_lease",
            holder=child.holder,
            lease_bytes=model.footprint.template_peak_bytes,
            measured_bytes=rest,
        )
    state.log(
        "info", "template_ready", model=model.name, pid=ready.pid, seconds=round(ready.load_seconds, 3),
        private_bytes=ready.private_bytes, peak_bytes=ready.peak_bytes, **ready.facts,
    )  # fmt: skip
    staff_all(state, now)


def worker_ready(state: State, worker: Worker, ready: link.Ready, now: float) -> None:
    model, child = state.models[worker.model], state.children[worker.child]
    assert model.footprint is not None
    if worker.state is not WorkerState.STARTING and worker.state is not WorkerState.LOADING:
        return
    child.is_ready, child.pid = True, ready.pid
    worker.becomes(WorkerState.READY, now)
    worker.idle_since = worker.heard_at = now
    worker.private_bytes, worker.threads = ready.private_bytes, ready.threads
    model.loads += ready.loads
    if ready.facts:
        model.facts = dict(ready.facts)
    model.loaded_at = model.loaded_at if len(model.serving) > 1 else now
    model.last_used = max(model.last_used, now)
    model.error = None
    state.governor.lower(child.holder, max(model.footprint.worker_bytes, ready.private_bytes))
    state.governor.measured(child.holder, ready.private_bytes)
    state.log(
        "info", "worker_ready", worker=worker.label, pid=ready.pid, threads=ready.threads,
        seconds=round(now - worker.started_at, 3), private_bytes=ready.private_bytes,
    )  # fmt: skip
    answer_waiters(state, model, None, now)
    pump(state, model, now)


def load_failed(state: State, model: ModelState, error: EmbedDaemonError, now: float) -> None:
    """Loading failed for a reason that is known: whoever waits gets it, and it is not tried again for a while."""
    _back_off(state, model, error, now, free=0)
    state.log(
        "error",
        "load_failed",
        model=model.name,
        code=error.code,
        error=str(error),
        retry_seconds=round(model.retry_at - now, 1),
    )
    if not model.workers:
        # What is read again next time may have been mended meanwhile.
        model.card = model.footprint = model.folder = None
        model.is_wanted = False
        fail_all(state, model, error)
        answer_waiters(state, model, error)


def _back_off(
    state: State, model: ModelState, error: EmbedDaemonError, now: float, *, free: int = FREE_FAILURES
) -> None:
    model.failures += 1
    model.error = error
    model.retry_at = now + _delay(model.failures - free, state.random())


def _delay(failures: int, random: float) -> float:
    """Seconds, doubling, within plus or minus a quarter so that models that fell together do not rise together."""
    if failures <= 0:
        return 0.0
    return min(FIRST_BACK_OFF_SECONDS * 2.0 ** min(failures - 1, 16), LONGEST_BACK_OFF_SECONDS) * (0.75 + random / 2)


def child_ended(state: State, number: int, exit_code: int | None, now: float, *, orphan: bool = False) -> None:
    """A process was reaped: its lease is back. Then what its kind calls for, and whoever waited for memory gets a try."""
    child = state.children.pop(number, None)
    if child is None:
        return
    state.governor.release(child.holder)
    death = child.ending or (DeathClass.PARENT_DIED if orphan else classify(exit_code))
    match child.kind:
        case ChildKind.WORKER:
            worker = _worker_of(state, child)
            if worker is not None:
                worker_gone(state, worker, death, exit_code, now, error=child.load_error)
        case ChildKind.TEMPLATE:
            _template_gone(state, child, death, exit_code, now)
        case ChildKind.FETCHER:
            _fetcher_gone(state, child, death, exit_code, now)
        case ChildKind.FORK_SERVER:
            _fork_server_gone(state, child, death, exit_code, now)
    _orphan_children(state, child, now)
    if child.model is not None:
        _finish_unload(state, state.models[child.model])
    staff_all(state, now)


def _worker_of(state: State, child: Child) -> Worker | None:
    """The worker that a child lives for, unless it was given up already."""
    if child.model is None or child.slot is None:
        return None
    worker = state.models[child.model].workers.get(child.slot)
    return worker if worker is not None and worker.child == child.number else None


def worker_gone(
    state: State,
    worker: Worker,
    death: DeathClass,
    exit_code: int | None,
    now: float,
    *,
    error: EmbedDaemonError | None = None,
) -> None:
    """An incarnation is over, on purpose or not: its requests are taken back and the slot is free for the next."""
    model = state.models[worker.model]
    was_asked = worker.state is WorkerState.DRAINING or death is DeathClass.STOPPED
    if worker.state not in ENDED:
        if worker.state is WorkerState.DRAINING and not worker.dispatches:
            worker.becomes(WorkerState.STOPPED, now)
        else:
            worker.becomes(WorkerState.FAILED, now)
    del model.workers[worker.slot]
    if was_asked and not worker.dispatches:
        state.log("info", "worker_stopped", worker=worker.label, exit_code=exit_code)
        return
    model.deaths[death.value] += 1
    state.log(
        "warning", "worker_died", worker=worker.label, death=death.value, exit_code=exit_code, held=worker.in_flight
    )
    take_back(state, worker, death, exit_code)
    if death is DeathClass.LOAD_FAILED:
        load_failed(
            state,
            model,
            error or FailedLoad(f"model {model.name!r} could not be loaded; the daemon's log says why"),
            now,
        )
    elif death is not DeathClass.PARENT_DIED:
        _back_off(state, model, WorkerCrashed(f"a worker of model {model.name!r} {explain(death, exit_code)}"), now)


def _template_gone(state: State, child: Child, death: DeathClass, exit_code: int | None, now: float) -> None:
    model = state.models[child.model or ""]
    if model.template == child.number:
        model.template = None
    give_back_reserved(state, model)
    if death is DeathClass.STOPPED:
        state.log("info", "template_stopped", model=model.name)
    elif child.load_error is not None:
        load_failed(state, model, child.load_error, now)
    elif death is not DeathClass.PARENT_DIED:
        model.deaths[f"template_{death.value}"] += 1
        state.log("warning", "template_died", model=model.name, death=death.value, exit_code=exit_code)
        _back_off(state, model, WorkerCrashed(f"the template of model {model.name!r} {explain(death, exit_code)}"), now)


def _fetcher_gone(state: State, child: Child, death: DeathClass, exit_code: int | None, now: float) -> None:
    model = state.models[child.model or ""]
    model.fetcher = None
    if child.load_error is not None:
        load_failed(state, model, child.load_error, now)
    elif model.folder is None and death not in (DeathClass.PARENT_DIED, DeathClass.STOPPED):
        load_failed(state, model, FailedLoad(f"fetching {model.spec.source} {explain(death, exit_code)}"), now)


def _fork_server_gone(state: State, child: Child, death: DeathClass, exit_code: int | None, now: float) -> None:
    state.fork_server = None
    if death is DeathClass.STOPPED:
        return
    state.fork_server_failures += 1
    free = FREE_FAILURES if child.is_ready else 0
    state.fork_server_retry_at = now + _delay(state.fork_server_failures - free, state.random())
    state.log("error", "fork_server_died", death=death.value, exit_code=exit_code, was_ready=child.is_ready)
    if not child.is_ready:
        error = child.load_error or FailedLoad(
            f"the fork server {explain(death, exit_code)}; the daemon's log says why"
        )
        for model in state.models.values():
            if model.is_wanted and not model.workers:
                load_failed(state, model, error, now)


def _orphan_children(state: State, parent: Child, now: float) -> None:
    """Whoever was forked by it goes with it; requests are taken back at once, leases when each is reaped."""
    for child in list(state.children_of(parent.number)):
        parent_lost(state, child, now)


def parent_lost(state: State, child: Child, now: float) -> None:
    """The parent of ``child`` is gone or going, and so is the child: take back what it held, without blame."""
    for grandchild in list(state.children_of(child.number)):
        parent_lost(state, grandchild, now)
    worker = _worker_of(state, child)
    if worker is not None:
        worker_gone(state, worker, DeathClass.PARENT_DIED, None, now)
    if child.kind is ChildKind.TEMPLATE and state.models[child.model or ""].template == child.number:
        state.models[child.model or ""].template = None
    if child.pid is None:
        # Nobody told us its process, so nobody can tell us its end: it finds its parent gone and exits by itself.
        child_ended(state, child.number, None, now, orphan=True)
    else:
        end_child(state, child.number, DeathClass.PARENT_DIED)


def control_lost(state: State, child: Child, now: float) -> None:
    """Its control socket is at end-of-file: the process is going, and takes those below it along. Its end is still to come."""
    child.is_lost = True
    if child.kind in (ChildKind.TEMPLATE, ChildKind.FORK_SERVER):
        for below in list(state.children_of(child.number)):
            parent_lost(state, below, now)


def _finish_unload(state: State, model: ModelState) -> None:
    if not model.is_unloading or model.workers:
        return
    if model.template is not None:
        end_child(state, model.template, DeathClass.STOPPED)
        return
    if any(child.model == model.name for child in state.children.values()):
        return
    model.is_unloading = False
    state.log("info", "unloaded", model=model.name)
    answer_unloaded(state, model)


def give_up(state: State, worker: Worker, why: DeathClass) -> None:
    """A worker that must not go on: kill it; what it holds is taken back when it is reaped."""
    state.log("warning", "killing", worker=worker.label, why=why.value)
    end_child(state, worker.child, why)
