"""Checkups: a known text embedded by a worker because somebody asks if it is well, and its vector looked at. Pure.

A checkup goes past the queue and counts as no use: it neither wakes a model nor keeps one, unless whoever asks says so.
Each model has one at a time, which all share who ask meanwhile: however many they are, a worker has one text to do.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from embeddaemon.errors import Busy, Forbidden, ProtocolError
from embeddaemon.protocol import bodies, link
from embeddaemon.protocol.codec import decode_answer, encode_request
from embeddaemon.protocol.messages import Document, Embed, ErrorAnswer, Health, Vectors
from embeddaemon.supervisor.commands import Reply, SendDispatch
from embeddaemon.supervisor.events import RequestReceived, WorkerSaid
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.staffing import find_worker, staff
from embeddaemon.supervisor.requests import admission
from embeddaemon.supervisor.sickness.askers import Asker, Checkup, Outcome
from embeddaemon.supervisor.sickness.health import health
from embeddaemon.supervisor.state import State

KNOWN_TEXT = "The quick brown fox jumps over the lazy dog."

LONGEST_SECONDS = 10.0
"""An answer comes after so long in any case, unless a model is to be woken: a worker that has a text to compute and
takes longer is not well, whatever it does."""

LOST_SECONDS = 2 * LONGEST_SECONDS
"""A worker says after LONGEST_SECONDS that it is too late: what it says nothing of for so long never reached it."""

PART_OF_DEADLINE = 0.8
"""Of what the client waits at most: so that the answer says what was found out until then."""

MOST_ASKERS = 1024
"""Who wait for checkups at once: what one daemon's probes can be, and much less than would hold it up."""

MOST_DEATHS = 1
"""Workers that may go while they compute the text, for reasons of their own, before the answer says so."""

LENGTH_TOLERANCE = 0.01
"""A vector of unit length may be off by so much: far more than any precision that is served rounds."""


def ask(state: State, event: RequestReceived, request: Health, now: float) -> None:
    """Answer at once; or, where models are to embed something, when they have. Raises EmbedDaemonError."""
    is_named = request.model is not None
    models = (
        [admission.model_of(state, request.model)]
        if is_named
        else [each for each in state.models.values() if not each.is_removed]
    )
    deadline = admission.deadline_of(state, request.deadline_ms, now)
    if request.wake and not event.is_admin:
        raise Forbidden("only the daemon's own user or root may have a model loaded for a health check")
    asker = Asker(
        client=event.client,
        id=request.id,
        since=now,
        deadline=now + PART_OF_DEADLINE * (deadline - now),
        is_named=is_named,
        wakes=request.wake,
        names=tuple(model.name for model in models),
    )
    if not request.deep or state.is_draining:
        _answer(state, asker, now)
        return
    if len(state.askers) >= MOST_ASKERS:
        raise Busy(f"{len(state.askers)} health checks are under way, the most allowed", retry_after_ms=250)
    if request.wake:
        _wake(state, models, now)
    else:
        asker.deadline = min(asker.deadline, now + LONGEST_SECONDS)
    asker.pending.update(asker.names)
    state.askers.append(asker)
    advance(state, now)


def _wake(state: State, models: Sequence[ModelState], now: float) -> None:
    for model in models:
        model.wakers += 1
        model.last_used = now
        if not model.serving:
            staff(state, model, now)


def advance(state: State, now: float) -> None:
    """Begin what can begin, give up what cannot end, answer who has all."""
    for checkup in list(state.checkups.values()):
        if find_worker(state, checkup.worker, checkup.incarnation) is None:
            _worker_gone(state, checkup, now)
        elif now - checkup.began_at > LOST_SECONDS:
            del state.checkups[checkup.model]
    for asker in list(state.askers):
        for name in sorted(asker.pending):
            _advance_one(state, asker, name, now)
        if not asker.pending:
            state.askers.remove(asker)
            _end_wake(state, asker)
            _answer(state, asker, now)


def _advance_one(state: State, asker: Asker, name: str, now: float) -> None:
    model = state.models.get(name)
    if model is None:
        _settle(asker, name, Outcome(ok=None, why="it was removed from the configuration", seconds=now - asker.since))
    elif now >= asker.deadline:
        why = f"no vector came within {now - asker.since:.1f} s"
        if not model.serving:
            why += f": {admission.expiry_of(model, is_dispatched=False).message}"
        _settle(asker, name, Outcome(ok=False, why=why, seconds=now - asker.since))
    elif name in state.checkups:
        return
    elif model.serving:
        state.checkups[name] = _begin(state, model, now)
    elif not asker.wakes:
        _settle(asker, name, Outcome(ok=None, why="it is not loaded, and a health check loads no model", seconds=0.0))
    elif (refusal := admission.refusal_of(model, now)) is not None:
        _settle(asker, name, Outcome(ok=False, why=f"{refusal.code}: {refusal}", seconds=now - asker.since))


def _begin(state: State, model: ModelState, now: float, deaths: int = 0) -> Checkup:
    """Past the queue, to the worker with the least to do."""
    worker = min(model.serving, key=lambda each: (each.exclusive, each.held_bytes))
    serial = state.next_serial()
    request = Embed(id=serial, model=model.name)
    item = link.Item(serial=serial, model=model.name, expires_in_ms=int(LONGEST_SECONDS * 1000), queue_us=0)
    body = bodies.encode_texts([KNOWN_TEXT], state.settings.limits)
    dispatch = link.Dispatch(worker.incarnation, state.next_serial(), (item,))
    state.commands.append(SendDispatch(worker.number, dispatch, [encode_request(request), body]))
    return Checkup(
        model=model.name,
        serial=serial,
        worker=worker.number,
        incarnation=worker.incarnation,
        began_at=now,
        deaths=deaths,
    )


def answered(state: State, event: WorkerSaid, now: float) -> bool:
    """Whether a worker's message is the answer of a checkup; its outcome is told to all who wait for it then."""
    message = event.message
    if not isinstance(message, link.Result):
        return False
    checkup = next((each for each in state.checkups.values() if each.serial == message.serial), None)
    if checkup is None:
        return False
    worker = find_worker(state, message.worker, message.incarnation)
    if worker is not None:
        worker.heard_at = now
    wrong = what_is_wrong(state.models[checkup.model], event.frames)
    _end(state, checkup, wrong, now)
    return True


def _worker_gone(state: State, checkup: Checkup, now: float) -> None:
    model = state.models.get(checkup.model)
    if checkup.deaths >= MOST_DEATHS:
        _end(state, checkup, f"{checkup.deaths + 1} workers ended while they computed a text for it", now)
        return
    is_wanted = any(checkup.model in asker.pending for asker in state.askers)
    if model is not None and model.serving and is_wanted:
        state.checkups[checkup.model] = _begin(state, model, now, checkup.deaths + 1)
    else:
        del state.checkups[checkup.model]


def _end(state: State, checkup: Checkup, wrong: str | None, now: float) -> None:
    del state.checkups[checkup.model]
    for asker in state.askers:
        if checkup.model in asker.pending:
            _settle(asker, checkup.model, Outcome(ok=wrong is None, why=wrong, seconds=now - asker.since))


def _settle(asker: Asker, name: str, outcome: Outcome) -> None:
    asker.pending.discard(name)
    asker.outcomes[name] = outcome


def _end_wake(state: State, asker: Asker) -> None:
    if asker.wakes:
        for name in asker.names:
            if name in state.models:
                state.models[name].wakers -= 1


def _answer(state: State, asker: Asker, now: float) -> None:
    models = [state.models[name] for name in asker.names if name in state.models]
    document = health(state, models, now, is_named=asker.is_named, outcomes=asker.outcomes)
    state.commands.append(Reply(asker.client, Document(id=asker.id), document))


def give_up_all(state: State, now: float, why: str) -> None:
    """Answer all who wait with what is known by now."""
    for asker in state.askers:
        for name in list(asker.pending):
            _settle(asker, name, Outcome(ok=None, why=why, seconds=now - asker.since))
    advance(state, now)


def client_gone(state: State, client: bytes) -> None:
    """Nobody is there any more to be told."""
    for asker in [each for each in state.askers if each.client == client]:
        state.askers.remove(asker)
        _end_wake(state, asker)


def what_is_wrong(model: ModelState, frames: Sequence[Any]) -> str | None:
    """With the answer to the known text; None: it is a proper vector."""
    header, *arrays = frames
    try:
        answer = decode_answer(bytes(header))
    except ProtocolError as error:
        return f"its answer cannot be read: {error}"
    if isinstance(answer, ErrorAnswer):
        return f"{answer.code}: {answer.message}"
    if not isinstance(answer, Vectors):
        return f"a text was to be embedded, {type(answer).__name__} came"
    dim = answer.dim
    if model.card is not None and dim != model.card.dim:
        return f"a vector has {dim} dimensions, not {model.card.dim}"
    content = bytes(arrays[0]) if arrays else b""
    if answer.count != 1 or len(content) != 4 * dim:
        return f"{answer.count} vectors came in {len(content)} bytes"
    numbers = struct.unpack(f"<{dim}f", content)
    length = math.sqrt(math.fsum(number * number for number in numbers))
    if not math.isfinite(length) or length == 0.0:
        return "it gave a vector that is not finite, or all zero"
    if abs(length - 1.0) > LENGTH_TOLERANCE:
        return f"it gave a vector of length {length:.3g} where 1 was asked for"
    return None
