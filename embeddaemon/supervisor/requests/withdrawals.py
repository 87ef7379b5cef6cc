"""Requests that nobody waits for any more: withdrawn by their client, or left behind by one that has gone. Pure.

What waits is dropped, and workers are told to drop what they hold. Each request ends exactly once all the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from embeddaemon.errors import Cancelled
from embeddaemon.protocol.error_codec import error_answer
from embeddaemon.supervisor.commands import Reply, SendCancel, SendWaiting
from embeddaemon.supervisor.model_state import ModelState, Waiter
from embeddaemon.supervisor.requests.dispatch import OpenRequest
from embeddaemon.supervisor.requests.life import close, end_with_error
from embeddaemon.supervisor.state import State

ASK_AFTER_SECONDS = 1.0
"""A client whose requests are open for so long gets a sign of life, as often: if it has gone, sending it tells us."""


def cancel(state: State, client: bytes, ids: Iterable[int]) -> int:
    """End a client's requests as cancelled, each answered so; gives how many there were."""
    wanted = set(ids)
    serials = [state.ids[client, id_] for id_ in wanted if (client, id_) in state.ids]
    entries = [state.open[serial] for serial in serials]
    _tell_workers(state, entries)
    for entry in entries:
        end_with_error(state, entry, Cancelled("the client withdrew the request"))
    waiters = _take_waiters(state, client, wanted)
    for waiter in waiters:
        state.counts["cancelled"] += 1
        state.commands.append(Reply(client, error_answer(waiter.id, Cancelled("the client withdrew the request"))))
    return len(entries) + len(waiters)


def client_gone(state: State, client: bytes) -> None:
    """End what a client left behind; there is nobody to be answered."""
    entries = [entry for entry in state.open.values() if entry.client == client]
    _tell_workers(state, entries)
    for entry in entries:
        close(state, entry)
    waiters = _take_waiters(state, client, None)
    if entries or waiters:
        state.counts["cancelled"] += len(entries) + len(waiters)
        state.log("info", "client_gone", client=client.hex(), left_behind=len(entries) + len(waiters))


def ask_who_is_there(state: State, now: float) -> None:
    """Send every client that waits long a sign of life, with the reason of the one that waits longest for a model."""
    if now - state.asked_who_is_there_at < ASK_AFTER_SECONDS:
        return
    state.asked_who_is_there_at = now
    open_requests: Counter[bytes] = Counter()
    reasons: dict[bytes, str | None] = {}
    for wait in sorted(_waits(state), key=lambda each: each.since):
        open_requests[wait.client] += 1
        if now - wait.since >= ASK_AFTER_SECONDS:
            reasons[wait.client] = reasons.get(wait.client) or _why(state.models[wait.model], now)
    state.commands += [SendWaiting(client, open_requests[client], why) for client, why in sorted(reasons.items())]


@dataclass(frozen=True, slots=True)
class _Wait:
    since: float
    client: bytes
    model: str


def _waits(state: State) -> Iterator[_Wait]:
    """Everything that a client waits for: answers, loads and unloads."""
    for entry in state.open.values():
        yield _Wait(entry.received_at, entry.client, entry.model)
    for model in state.models.values():
        for waiter in (each for waiters in model.waiters for each in waiters):
            yield _Wait(waiter.since, waiter.client, model.name)


def _why(model: ModelState, now: float) -> str | None:
    """Why nobody computes for a model; None where somebody does."""
    if model.is_unloading:
        return f"model {model.name!r} is being unloaded"
    if model.serving:
        return None
    if model.waiting is not None:
        return f"model {model.name!r} waits for memory: {model.waiting.text()}"
    if now < model.retry_at and model.error is not None:
        return f"model {model.name!r} is started again in {model.retry_at - now:.1f} s: {model.error}"
    return f"loading {model.name}"


def _tell_workers(state: State, entries: Iterable[OpenRequest]) -> None:
    held: defaultdict[int, list[int]] = defaultdict(list)
    for entry in entries:
        if entry.worker is not None:
            held[entry.worker].append(entry.serial)
    for number, serials in held.items():
        state.commands.append(SendCancel(number, state.workers[number].incarnation, tuple(serials)))


def _take_waiters(state: State, client: bytes, ids: Container[int] | None) -> list[Waiter]:
    """Those of a client that wait for a load or an unload, all of them or by their ids; they wait no more."""
    taken = []
    for model in state.models.values():
        for waiters in model.waiters:
            its = [each for each in waiters if each.client == client and (ids is None or each.id in ids)]
            taken += its
            waiters[:] = [each for each in waiters if each not in its]
    return taken
