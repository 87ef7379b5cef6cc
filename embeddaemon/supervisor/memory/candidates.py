"""Who could go so that another model fits: idle models, workers that one can spare, busy models after their turn. Pure.

Which of them must go is the governor's choice; that they go is in room.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from embeddaemon.governor.eviction import Candidate
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.child import Child, ChildKind
from embeddaemon.supervisor.processes.departures import worker_of
from embeddaemon.supervisor.processes.lifecycle import COMING, Worker, WorkerState
from embeddaemon.supervisor.state import State

TURN_SECONDS = 5.0
"""Models that do not fit together take turns at least so long, while all have work."""

TURN_LOADS = 4.0
"""And at least so many times what loading takes: at most a fifth of the time goes into loading."""

LEAVING = "(leaving)"
"""Stands among the candidates for all that is on its way out; no model is called so."""


@dataclass(frozen=True, slots=True)
class Leaver:
    """What a candidate is: a model with everything that it has, or one of its workers."""

    model: ModelState
    worker: Worker | None = None


Leavers = dict[Candidate, Leaver | None]
"""Who could go, and as what; None stands for all that is going already."""


def candidates(state: State, asker: ModelState | None, now: float) -> Leavers:
    """All that is loaded, and as one, with None, what is on its way out; the governor knows who of them may go."""
    found: Leavers = {}
    for model in state.models.values():
        if not model.is_absent and not model.is_unloading:
            found[_whole(state, model, _idle_since(state, model, asker, now))] = Leaver(model)
            if asker is not None and model is not asker and asker.has_work:
                found |= {_single(state, model, worker): Leaver(model, worker) for worker in _spare(model)}
    holders = tuple(holder for child in leaving(state) for holder in child.holders)
    found[Candidate(LEAVING, holders, idle_since=None, loaded_at=0.0, is_leaving=True)] = None
    return found


def unneeded(state: State) -> Leavers:
    """What nobody needs now, for the machine's sake and not for another model's."""
    found: Leavers = {}
    for model in state.models.values():
        if not model.is_absent and not model.is_unloading:
            idle_since = None if model.has_work or is_coming(state, model) else model.last_used
            found[_whole(state, model, idle_since)] = Leaver(model)
            found |= {_single(state, model, worker): Leaver(model, worker) for worker in _spare(model)}
    return found


def _whole(state: State, model: ModelState, idle_since: float | None) -> Candidate:
    staying = [
        child for child in state.children.values() if child.model == model.name and not _is_leaving(state, child)
    ]
    return Candidate(
        name=model.name,
        holders=tuple(holder for child in staying for holder in child.holders),
        idle_since=idle_since,
        loaded_at=model.loaded_at,
        is_pinned=model.spec.pinned,
    )


def _spare(model: ModelState) -> list[Worker]:
    """Idle workers beyond the minimum, the ones that are idle longest. Also those of a pinned model: it stays."""
    idle = sorted(
        (worker for worker in model.staying if worker.state is WorkerState.READY), key=lambda each: each.idle_since
    )
    return idle[: max(0, len(model.staying) - model.spec.workers.min)]


def _single(state: State, model: ModelState, worker: Worker) -> Candidate:
    child = state.children[worker.child]
    return Candidate(f"{model.name}/{worker.slot}", child.holders, worker.idle_since, loaded_at=worker.started_at)


def _idle_since(state: State, model: ModelState, asker: ModelState | None, now: float) -> float | None:
    """Since when it could go for the asker, for all that it does; None while it may not."""
    if asker is None or model is asker or is_coming(state, model) or not asker.has_work:
        return None
    if not model.has_work:
        return model.last_used
    return now if _turn_is_over(model, asker, now) else None


def is_coming(state: State, model: ModelState) -> bool:
    """Whether something of it loads or starts now."""
    template = state.template_of(model)
    return (template is not None and not template.is_ready) or any(
        worker.state in COMING for worker in model.workers.values()
    )


def _turn_is_over(model: ModelState, asker: ModelState, now: float) -> bool:
    """Busy, but it has had its turn, and the asker has waited for one as long."""
    return has_waited_a_turn(asker, now) and now - model.loaded_at >= turn_seconds(model)


def has_waited_a_turn(model: ModelState, now: float) -> bool:
    """Its work waits for memory long enough that it is to have it before others."""
    return model.waiting_since is not None and now - model.waiting_since >= TURN_SECONDS


def turn_seconds(model: ModelState) -> float:
    """How long a busy model stays at least before another may have its memory."""
    return max(TURN_SECONDS, TURN_LOADS * model.load_seconds)


def leaving(state: State) -> list[Child]:
    """Those whose leases are on their way back."""
    return [child for child in state.children.values() if _is_leaving(state, child)]


def _is_leaving(state: State, child: Child) -> bool:
    """Its lease is on its way back: it was told to go, or it drains, or its model goes."""
    if child.is_leaving:
        return True
    if child.model is None or child.kind is ChildKind.FETCHER:
        return False
    model = state.models[child.model]
    worker = worker_of(state, child)
    return model.is_unloading or (worker is not None and worker.state is WorkerState.DRAINING)
