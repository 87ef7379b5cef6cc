"""After a worker's death: which of the requests that it held are suspected of it, and which text is convicted. Pure.

The journal says which texts the worker was at; only their requests are suspected. They are computed again with nothing
else in the worker, text by text, so that a second death names one text. What cannot be named (killed by somebody, no
journal) makes nobody a convict; a request that is there twice is answered ``worker_crashed``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from embeddaemon.errors import WorkerCrashed
from embeddaemon.protocol.journal import WHOLE_REQUEST, Turn
from embeddaemon.supervisor.commands import SendConvict
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.child import Child
from embeddaemon.supervisor.processes.lifecycle import (
    CONVICTING,
    INNOCENT_OF_REQUESTS,
    SERVING,
    DeathClass,
    Worker,
    explain,
)
from embeddaemon.supervisor.requests.dispatch import OpenRequest
from embeddaemon.supervisor.requests.life import end_with_error
from embeddaemon.supervisor.sickness import canary
from embeddaemon.supervisor.sickness.intensity import FREE_FAILURES
from embeddaemon.supervisor.state import State

MOST_UNSOLVED = 2
"""Workers that may die under a request for no known reason: its own, and one more to be sure that it was chance."""

MOST_DEATHS = 8
"""Workers that may die under one request at all: it may hold several bad texts, and each of them costs one."""

MOST_ALONE = 2048
"""Texts that a dispatch names to be computed alone; with more, all of the request are."""

_RLIMIT = "rlimit"


def take_back(
    state: State, worker: Worker, child: Child, death: DeathClass, now: float, *, exit_code: int | None
) -> bool:
    """A worker ended: what it held goes to the front of the queue again. Whether it was a text's fault that is known.

    Nobody is blamed for a death that had nothing to do with what the worker held.
    """
    model = state.models[worker.model]
    serials = [serial for dispatch in worker.dispatches.values() for serial in dispatch.sizes]
    held = [state.open[serial] for serial in serials if serial in state.open]
    worker.dispatches.clear()
    suspects = {} if death in INNOCENT_OF_REQUESTS else _suspects(child, death, held)
    digests = frozenset() if death in INNOCENT_OF_REQUESTS else _digests(state, child, death, suspects)
    is_solvable = bool(digests) and WHOLE_REQUEST not in digests and _convicts(state, child, death)
    is_solved = is_solvable and _is_solved(state, model, digests, child, now, death=death)
    for entry in sorted(held, key=lambda each: each.serial, reverse=True):
        entry.worker = None
        model.queue.put_back(entry)
        if entry.serial in suspects:
            _suspect(state, entry, suspects[entry.serial], is_solvable=is_solvable)
            _give_up(state, entry, death, exit_code)
    return is_solved


def _suspects(child: Child, death: DeathClass, held: Collection[OpenRequest]) -> dict[int, frozenset[bytes]]:
    """The texts that it was at by the serials of their requests; all that it held where nobody wrote that down."""
    if child.turns is None:
        return {entry.serial: frozenset((WHOLE_REQUEST,)) for entry in held}
    still_open = {entry.serial for entry in held}
    found: defaultdict[int, set[bytes]] = defaultdict(set)
    for turn in _guilty(child.turns, death):
        for record in turn.records:
            if record.serial in still_open:
                found[record.serial].add(record.digest)
    return {serial: frozenset(digests) for serial, digests in found.items()}


def _digests(
    state: State, child: Child, death: DeathClass, suspects: Mapping[int, frozenset[bytes]]
) -> frozenset[bytes]:
    """All texts that may be to blame, also of requests that ended before: a text that hangs outlives its deadline.

    Texts of our own (canary, checkup) kill no worker that can compute anything, so they are not among them.
    """
    if child.turns is None:
        return frozenset(digest for its in suspects.values() for digest in its)
    records = [record for turn in _guilty(child.turns, death) for record in turn.records]
    ours = {canary.SERIAL, *(checkup.serial for checkup in state.checkups.values())}
    return frozenset(record.digest for record in records if record.serial not in ours)


def _guilty(turns: tuple[Turn, ...], death: DeathClass) -> tuple[Turn, ...]:
    """Of a worker that was killed for a thread that hung, that thread's turn; else any may be to blame."""
    if death is DeathClass.STALLED and turns:
        return (min(turns, key=lambda turn: turn.began_at),)
    return turns


def _convicts(state: State, child: Child, death: DeathClass) -> bool:
    """Whether such a death can be a text's fault. Memory can, where it was the worker's own limit that was reached."""
    if death is DeathClass.OUT_OF_MEMORY:
        return child.kernel_kill is not None or state.hard_limits == _RLIMIT
    return death in CONVICTING


def _is_solved(
    state: State, model: ModelState, digests: AbstractSet[bytes], child: Child, now: float, *, death: DeathClass
) -> bool:
    deaths = model.suspects.died(digests, child.number, death, now, remember_seconds=state.settings.poison_seconds)
    if deaths is None:
        return False
    # They were the text's doing and say nothing against the model.
    forgiven = model.intensity.forgive(deaths)
    model.failures = max(0, model.failures - forgiven)
    if model.failures <= FREE_FAILURES and not model.intensity.is_quarantined(now):
        model.retry_at = now
    state.counts["convicted"] += 1
    (digest,) = digests
    state.log("error", "text_convicted", model=model.name, digest=digest.hex(), death=death.value, deaths=len(deaths))
    for each in model.workers.values():
        tell_convicted(state, model, each, now)
    return True


def tell_convicted(state: State, model: ModelState, worker: Worker, now: float) -> None:
    """Which texts a worker must not touch. Before its first dispatch, and whenever there is one more."""
    texts = model.suspects.convicted(now)
    if texts and worker.state in SERVING:
        state.commands.append(SendConvict(worker.number, worker.incarnation, texts))


def acquit(state: State, model: ModelState, now: float) -> None:
    """Somebody knows better: nothing is held against the model or its texts any more."""
    texts = tuple(replace(each, expires_in_ms=0) for each in model.suspects.convicted(now))
    if texts:
        state.commands += [
            SendConvict(each.number, each.incarnation, texts)
            for each in model.workers.values()
            if each.state in SERVING
        ]
    model.suspects.forget()
    model.intensity.lift()
    model.failures, model.retry_at = 0, now


def _suspect(state: State, entry: OpenRequest, digests: frozenset[bytes], *, is_solvable: bool) -> None:
    entry.deaths += 1
    entry.unsolved += not is_solvable
    known = () if entry.alone is None else entry.alone
    together = digests | set(known)
    is_named = WHOLE_REQUEST not in digests and entry.alone != () and len(together) <= MOST_ALONE
    entry.alone = tuple(sorted(together)) if is_named else ()
    state.counts["suspected"] += 1


def _give_up(state: State, entry: OpenRequest, death: DeathClass, exit_code: int | None) -> None:
    if entry.unsolved < MOST_UNSOLVED and entry.deaths < MOST_DEATHS:
        return
    message = f"{entry.deaths} workers died while they computed this request; the last one {explain(death, exit_code)}"
    details = {"attempts": entry.deaths, "death": death.value}
    end_with_error(state, entry, WorkerCrashed(message, details=details))
