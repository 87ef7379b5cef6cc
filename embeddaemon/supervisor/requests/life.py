"""The life of a request: accepted, queued, dispatched, ended exactly once. Pure.

Whether it may enter is in admission.py, in which order requests leave the queue in dispatch.py.
"""

from __future__ import annotations

from typing import Any

from embeddaemon.errors import Cancelled, EmbedDaemonError, Expired, Invalid, Refused, error_for
from embeddaemon.protocol import link
from embeddaemon.protocol.codec import decode_answer
from embeddaemon.protocol.error_codec import error_answer
from embeddaemon.protocol.messages import Document, Embed, Lane, ModelRequest, Tokenize, Vectors
from embeddaemon.supervisor.commands import Forward, Recall, Reply, SendDispatch
from embeddaemon.supervisor.events import RequestReceived
from embeddaemon.supervisor.model_state import ModelState, Waiter
from embeddaemon.supervisor.processes.lifecycle import Dispatched, Worker
from embeddaemon.supervisor.requests import admission
from embeddaemon.supervisor.requests.cache import Kept, key
from embeddaemon.supervisor.requests.dispatch import OpenRequest, worker_for
from embeddaemon.supervisor.sickness.second_opinion import is_asked_again
from embeddaemon.supervisor.state import State


def accept(state: State, event: RequestReceived, now: float) -> ModelState | None:
    """Queue a request, with its deadline's timer; None when it could be answered at once.

    Raises what admission.py raises; nothing is changed then.
    """
    request = event.request
    assert isinstance(request, ModelRequest)
    admission.check_open(state)
    deadline = admission.deadline_of(state, request.deadline_ms, now)
    model = admission.model_of(state, request.model)
    admission.check_request(state, model, event)
    if _recall(state, model, event):
        return None
    admission.check_room(state, model, event, now)
    admission.check_user(state, model, event, now)
    entry = OpenRequest(
        serial=state.next_serial(),
        client=event.client,
        request=request,
        model=model.name,
        header=event.header,
        body=event.body,
        body_bytes=event.body_bytes,
        received_at=now,
        deadline=deadline,
        digest=event.digest,
        user=event.user,
    )
    state.usage.entered(event.user, event.body_bytes)
    state.open[entry.serial] = entry
    state.ids[event.client, request.id] = entry.serial
    state.timers.add(deadline, entry.serial)
    model.queue.add(entry)
    model.last_used = now
    return model


def _recall(state: State, model: ModelState, event: RequestReceived) -> bool:
    """Answer a request with what was kept of an earlier one, if it was."""
    if event.digest is None or model.card is None or not isinstance(event.request, Embed):
        return False
    kept = state.cache.find(key(model.fingerprint, event.request, event.digest))
    if kept is None:
        return False
    answer = kept.header_for(event.request)
    state.counts["answered"] += 1
    state.counts["texts"] += answer.count
    state.commands.append(Recall(event.client, answer, kept.frames))
    return True


def _keep(state: State, model: ModelState, entry: OpenRequest, frames: list[Any], worker: Worker) -> None:
    """Remember a good answer, if it is one that may be asked for again, of the files that are the model's now."""
    if entry.digest is None or not isinstance(entry.request, Embed) or worker.child in model.watch.leaving:
        return
    header, *arrays = frames
    answer = decode_answer(bytes(header))
    assert isinstance(answer, Vectors), "an embed request that was answered otherwise: bug"
    if answer.poisoned:
        return
    state.cache.keep(
        key(model.fingerprint, entry.request, entry.digest), Kept(answer, tuple(bytes(array) for array in arrays))
    )


def _outcome(error: EmbedDaemonError) -> str:
    """Under which an ending is counted: said no, too late, withdrawn, or failed on our side."""
    if isinstance(error, Expired | Cancelled):
        return error.code
    return f"refused.{error.code}" if isinstance(error, Refused | Invalid) else f"failed.{error.code}"


def refuse(state: State, client: bytes, id_: int, error: EmbedDaemonError) -> None:
    """Answer a request that never entered."""
    state.counts[f"refused.{error.code}"] += 1
    state.commands.append(Reply(client, error_answer(id_, error)))


def pump(state: State, model: ModelState, now: float) -> None:
    """Hand out what waits, interactive first, until the workers have enough or nothing waits."""
    if not model.queue:
        return
    workers = model.serving
    for lane in (Lane.INTERACTIVE, Lane.BULK):
        while model.queue.head(lane) is not None:
            worker = worker_for(model.queue, lane, workers, model.pace, now)
            if worker is None:
                break
            _dispatch(state, model, worker, lane, now)


def _dispatch(state: State, model: ModelState, worker: Worker, lane: Lane, now: float) -> None:
    number = state.next_serial()
    items: list[link.Item] = []
    payload: list[object] = []
    taken = model.queue.take(lane, model.pace.dispatch_bytes)
    for entry in taken:
        entry.worker = worker.number
        items.append(
            link.Item(
                serial=entry.serial,
                model=model.name,
                expires_in_ms=max(0, int((entry.deadline - now) * 1000)),
                queue_us=int((now - entry.received_at) * 1_000_000),
            )
        )
        payload += (entry.header, entry.body)
    sizes = {entry.serial: entry.body_bytes for entry in taken}
    worker.dispatches[number] = Dispatched(lane, now, sizes, sum(sizes.values()))
    worker.exclusive = taken[0].is_suspect
    worker.settles(now)
    dispatch = link.Dispatch(worker.incarnation, number, tuple(items), taken[0].alone)
    state.commands.append(SendDispatch(worker.number, dispatch, payload))


def close(state: State, entry: OpenRequest) -> None:
    """It ended: forget it. What a worker still holds of it is dropped when it comes."""
    del state.open[entry.serial]
    del state.ids[entry.client, entry.request.id]
    state.usage.left(entry.user, entry.body_bytes)
    if entry.worker is None:
        state.models[entry.model].queue.remove(entry)


def end_with_result(state: State, worker: Worker, result: link.Result, frames: list[Any], now: float) -> None:
    """A worker's answer: on to the client, and the credit back when its dispatch is through."""
    entry = state.open.get(result.serial)
    # Tokenizing is far quicker: measured by it, one dispatch of other work would keep a worker for many seconds.
    is_computed = not result.code and not (entry is not None and isinstance(entry.request, Tokenize))
    through = worker.ended(result.serial, now, is_computed=is_computed)
    model = state.models[worker.model]
    if through is not None and (measured := worker.meter.through(through.computed_bytes, through.sent_at, now)):
        model.pace.learn(measured)
    worker.settles(now)
    model.last_used = now
    if entry is None or entry.worker != worker.number:
        state.counts["results_dropped"] += 1
    elif not is_asked_again(state, model, worker, entry, now, code=result.code):
        close(state, entry)
        state.counts[_outcome(error_for(result.code, "")) if result.code else "answered"] += 1
        state.counts["texts"] += result.texts
        state.counts["tokens"] += result.tokens
        state.commands.append(Forward(entry.client, frames))
        if not result.code:
            _keep(state, model, entry, frames, worker)
    if not result.code:
        model.failures = state.fork_server_failures = 0
        if entry is not None and entry.alone:
            model.suspects.cleared(entry.alone)


def end_with_error(state: State, entry: OpenRequest, error: EmbedDaemonError) -> None:
    """Answer an accepted request with an error."""
    close(state, entry)
    state.counts[_outcome(error)] += 1
    state.commands.append(Reply(entry.client, error_answer(entry.request.id, error)))


def expire(state: State, serial: int, now: float) -> None:
    """The deadline timer of a request is due; nothing to do when it has ended."""
    entry = state.open.get(serial)
    if entry is not None and entry.is_expired(now):
        error = admission.expiry_of(state.models[entry.model], is_dispatched=entry.worker is not None)
        end_with_error(state, entry, error)


def fail_all(state: State, model: ModelState, error: EmbedDaemonError) -> None:
    """Answer everything that waits for a model with the same error."""
    for entry in list(model.queue):
        end_with_error(state, entry, error)


def answer_loaded(state: State, model: ModelState, now: float) -> None:
    """Tell those who asked for the model to be loaded that it is."""
    for waiter in model.load_waiters:
        document = {"model": model.name, "state": "ready", "seconds": now - waiter.since}
        state.commands.append(Reply(waiter.client, Document(id=waiter.id), document))
    model.load_waiters.clear()


def refuse_waiters(state: State, model: ModelState, error: EmbedDaemonError) -> None:
    """Tell those who asked for the model to be loaded why it is not."""
    refuse_all(state, model.load_waiters, error)


def refuse_all(state: State, waiters: list[Waiter], error: EmbedDaemonError) -> None:
    """None of these waits any more."""
    for waiter in waiters:
        refuse(state, waiter.client, waiter.id, error)
    waiters.clear()


def answer_unloaded(state: State, model: ModelState) -> None:
    """Tell those who asked for the model to be unloaded that it is."""
    for waiter in model.unload_waiters:
        state.commands.append(Reply(waiter.client, Document(id=waiter.id), {"model": model.name, "state": "available"}))
    model.unload_waiters.clear()
