"""One known text per model whose vector is known too: whether a worker still computes what it should. Pure.

The vector is remembered when the first worker of a model key is ready, and compared with that of every later worker
when it is ready (before its first request, nobody waits for it), and of idle workers now and then. Asking is no use of
the model: it wakes nobody and keeps nobody. A worker whose vector differs is killed, for its answers are wrong.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from embeddaemon.errors import BadOutput
from embeddaemon.protocol import bodies, codec, link
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import Embed, Lane
from embeddaemon.supervisor.commands import SendCanary
from embeddaemon.supervisor.model_state import Canary, ModelState
from embeddaemon.supervisor.processes.departures import give_up
from embeddaemon.supervisor.processes.lifecycle import DeathClass, Worker, WorkerState
from embeddaemon.supervisor.state import State

SERIAL = 0
"""Of its request on the link: no request of a client has it."""

TEXT = "The canary sings in the mine as long as the air is good."

LEAST_COSINE = 0.999
"""Between two vectors of one text: other threads, other company and bfloat16 leave 0.9999 (docs/vectors.md)."""

IN_A_ROW = 2
"""Workers whose vectors differ, one after the other, before the model itself is doubted."""

_EXPIRES_IN_MS = 60_000


def canary_frames(incarnation: int, model: str) -> list[bytes]:
    """A dispatch of the known text: what follows a worker's routing id."""
    item = link.Item(SERIAL, model, _EXPIRES_IN_MS, queue_us=0)
    header = codec.encode_request(Embed(id=1, model=model, lane=Lane.INTERACTIVE))
    dispatch = link.encode_to_worker(link.Dispatch(incarnation, 0, (item,)))
    return [dispatch, header, bodies.encode_texts([TEXT], Limits())]


def ask(state: State, worker: Worker, now: float) -> None:
    """Have a worker that is ready compute it, unless nobody wants that."""
    if state.settings.canary_seconds and not state.is_draining:
        worker.canary_at = now
        state.commands.append(SendCanary(worker.number, worker.incarnation, worker.model))


def ask_idle(state: State, now: float) -> None:
    """Those that have been idle for a while, and were not asked for longer."""
    if not state.settings.canary_seconds:
        return
    for worker in state.workers.values():
        if worker.state is WorkerState.READY and now - worker.canary_at >= state.settings.canary_seconds:
            ask(state, worker, now)


def heard(state: State, worker: Worker, result: link.Result, frames: Sequence[bytes | memoryview], now: float) -> None:
    """A worker computed it. That it could not says nothing: who cannot compute tells clients so as well."""
    model = state.models[worker.model]
    vector = () if result.code == BadOutput.code else _vector(frames)
    if vector is None or worker.child in model.watch.leaving or worker.state is WorkerState.DRAINING:
        return
    canary = model.canary
    if vector and (canary.vector is None or canary.fingerprint != model.fingerprint):
        model.canary = Canary(model.fingerprint, vector)
        return
    cosine = _cosine(canary.vector or (), vector)
    if cosine >= LEAST_COSINE:
        canary.failures = 0
        return
    canary.failures += 1
    state.counts["canary_failed"] += 1
    state.log("error", "worker_canary_failed", worker=worker.label, cosine=round(cosine, 6), in_a_row=canary.failures)
    give_up(state, worker, DeathClass.CANARY_FAILED, now)


def is_model_doubted(model: ModelState) -> bool:
    """Whether so many workers in a row differed that it is not the worker. Which vector is right is open then."""
    if model.canary.failures < IN_A_ROW:
        return False
    model.canary = Canary()
    return True


def _vector(frames: Sequence[bytes | memoryview]) -> tuple[float, ...] | None:
    """Of the frames of an answer: its header, then one row of float32."""
    if len(frames) != 2:
        return None
    row = bytes(frames[1])
    return struct.unpack(f"<{len(row) // 4}f", row) if row and len(row) % 4 == 0 else None


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """0 for what has no direction, or another length."""
    norms = math.sqrt(_product(one, one) * _product(other, other)) if len(one) == len(other) else 0.0
    return _product(one, other) / norms if norms > 0 and math.isfinite(norms) else 0.0


def _product(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(left * right for left, right in zip(one, other, strict=True))
