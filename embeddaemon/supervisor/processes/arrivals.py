"""What processes say of themselves: forked, ready, alive, fetched. What follows their end is in endings.py. Pure."""

from __future__ import annotations

from typing import assert_never

from embeddaemon.protocol import control, link
from embeddaemon.protocol.error_codec import error_from_map
from embeddaemon.supervisor.changes.reload import relieve_outgoing, take_over
from embeddaemon.supervisor.events import WorkerSaid
from embeddaemon.supervisor.memory.leases import lease_of, limit_worker, settle_lease
from embeddaemon.supervisor.memory.needs import FORK_SERVER_SLACK_PERCENT, fork_server_measured, template_measured
from embeddaemon.supervisor.memory.overruns import heard
from embeddaemon.supervisor.processes.child import Child, ChildKind
from embeddaemon.supervisor.processes.departures import end_child, worker_of
from embeddaemon.supervisor.processes.lifecycle import COMING, Worker, WorkerState
from embeddaemon.supervisor.processes.staffing import find_worker, staff, staff_all
from embeddaemon.supervisor.requests.life import answer_loaded, end_with_result, pump
from embeddaemon.supervisor.sickness import canary
from embeddaemon.supervisor.sickness.blame import tell_convicted
from embeddaemon.supervisor.state import State

ForkerNews = control.ForkServerReady | control.TemplateReady | control.LoadFailed | control.Fetched
"""What a process says about itself on its control socket."""


def worker_said(state: State, event: WorkerSaid, now: float) -> None:
    """A message on the link. One from a former incarnation is dropped."""
    message = event.message
    worker = find_worker(state, message.worker, message.incarnation)
    if worker is None:
        state.counts["stale_messages"] += 1
        return
    worker.heard_at = now
    model, child = state.models[worker.model], state.children[worker.child]
    match message:
        case link.Result(serial=canary.SERIAL):
            canary.heard(state, worker, message, [bytes(each) for each in event.frames], now)
        case link.Result():
            end_with_result(state, worker, message, event.frames, now)
            pump(state, model, now)
        case link.Heartbeat():
            worker.progress = max(worker.progress, message.progress)
            worker.turn_ms, worker.patience_ms = message.turn_ms, message.patience_ms
            if message.private_bytes:
                heard(state, worker, child, message, now)
        case link.Ready():
            if worker.state in COMING:
                _worker_ready(state, worker, child, message, now)
                tell_convicted(state, model, worker, now)
                canary.ask(state, worker, now)
                pump(state, model, now)
                staff(state, model, now)
        case link.LoadFailed():
            child.load_error = error_from_map(message.error)
        case link.Drained():
            state.log("debug", "drained", worker=worker.label)
        case _:
            assert_never(message)


def _worker_ready(state: State, worker: Worker, child: Child, ready: link.Ready, now: float) -> None:
    model = state.models[worker.model]
    child.is_ready, child.pid = True, ready.pid
    if model.load_started_at is not None:
        model.load_seconds = now - model.load_started_at
        model.load_started_at, model.loaded_at = None, now
    if child.number == model.watch.successor:
        take_over(state, model)
    worker.becomes(WorkerState.READY, now)
    worker.idle_since = now
    worker.private_bytes, worker.threads = ready.private_bytes, ready.threads
    model.loads += ready.loads
    if ready.facts and child.number not in model.watch.leaving:
        model.learn_facts(ready.facts)
    model.last_used = max(model.last_used, now)
    model.ready_at = now
    if not model.intensity.is_quarantined(now):
        model.error = None
    steady_bytes = lease_of(state, child).bytes if model.footprint is None else model.footprint.worker_bytes
    settle_lease(state, child, steady_bytes, ready.private_bytes, ready.peak_bytes)
    if child.device_holder is not None:
        state.governor.measured(child.device_holder, ready.device_bytes)
    else:
        limit_worker(state, child, ready.private_bytes)
    state.log(
        "info",
        "worker_ready",
        worker=worker.label,
        pid=ready.pid,
        threads=ready.threads,
        seconds=round(now - worker.started_at, 3),
        private_bytes=ready.private_bytes,
    )
    answer_loaded(state, model, now)
    relieve_outgoing(state, model, now)


def forked(state: State, message: control.Forked, now: float) -> None:
    """A child has a process now. One that was told to go before that is told again: now somebody can be killed."""
    child = state.children.get(message.child)
    if child is None:
        return
    child.pid = message.pid
    if child.ending is not None:
        end_child(state, child, child.ending, now)
        return
    worker = worker_of(state, child)
    if worker is not None and worker.state is WorkerState.STARTING:
        worker.becomes(WorkerState.LOADING, now)


def forker_said(state: State, child: Child, news: ForkerNews, now: float) -> None:
    """What the fork server, a template or a fetcher says of itself."""
    match news:
        case control.ForkServerReady():
            _fork_server_ready(state, child, news, now)
        case control.TemplateReady():
            _template_ready(state, child, news, now)
        case control.LoadFailed():
            child.load_error = error_from_map(news.error)
        case control.Fetched():
            _fetched(state, child, news, now)
        case _:
            assert_never(news)


def _fork_server_ready(state: State, child: Child, ready: control.ForkServerReady, now: float) -> None:
    child.is_ready, child.pid = True, ready.pid
    settle_lease(state, child, ready.private_bytes * FORK_SERVER_SLACK_PERCENT // 100, ready.private_bytes)
    fork_server_measured(state, ready, now)
    state.log(
        "info",
        "fork_server_ready",
        pid=ready.pid,
        seconds=round(now - child.started_at, 3),
        private_bytes=ready.private_bytes,
    )
    staff_all(state, now)


def _template_ready(state: State, child: Child, ready: control.TemplateReady, now: float) -> None:
    model = state.models[child.model or ""]
    child.is_ready, child.pid = True, ready.pid
    if child.ending is not None:
        return  # what it has loaded is no longer wanted, and perhaps not the model's any more
    if child.number == model.watch.successor:
        take_over(state, model)
    model.learn_facts(ready.facts)
    model.loads += ready.loads
    model.loaded_at = now
    settle_lease(state, child, 0, ready.private_bytes, ready.peak_bytes)
    template_measured(state, model, ready, now)
    state.log(
        "info",
        "template_ready",
        model=model.name,
        pid=ready.pid,
        seconds=round(ready.load_seconds, 3),
        private_bytes=ready.private_bytes,
        peak_bytes=ready.peak_bytes,
        **ready.facts,
    )
    staff_all(state, now)


def _fetched(state: State, child: Child, fetched: control.Fetched, now: float) -> None:
    assert child.kind is ChildKind.FETCHER
    model = state.models[child.model or ""]
    if child.number == model.watch.fetcher:
        model.watch.folder = fetched.folder
    elif child.number == model.fetcher and child.ending is None:
        model.folder = fetched.folder
    else:
        return  # it was told to go: something else is wanted by now
    state.log("info", "fetched", model=model.name, folder=fetched.folder, seconds=round(now - child.started_at, 1))
