"""Memory: what the governor is asked before a start, whose turn it is when not all fits, and the leases. Pure.

What is started is decided in staffing.py; this file says whether there is room for it, and makes some.
"""

from __future__ import annotations

from collections.abc import Sequence

from embeddaemon.errors import ConfigError
from embeddaemon.governor.core import FORK_SERVER, Answer, Demand, Evict, Granted, Never, Wait, WaitReason
from embeddaemon.governor.eviction import Candidate
from embeddaemon.governor.footprint import FORK_SERVER_BYTES
from embeddaemon.supervisor.admission import no_headroom
from embeddaemon.supervisor.cache import CACHE
from embeddaemon.supervisor.commands import TakeSample
from embeddaemon.supervisor.departures import unload, worker_of
from embeddaemon.supervisor.learning import needs_fork_server
from embeddaemon.supervisor.lifecycle import COMING, WorkerState
from embeddaemon.supervisor.requests import fail_all, refuse_waiters
from embeddaemon.supervisor.state import Child, ChildKind, ModelState, State

TURN_SECONDS = 5.0
"""Two models that do not fit together take turns at least so long, while both have work."""

STALE_SECONDS = 5.0
"""Nothing is started on a sample from before; the usual one is a second old (housekeeping.py), unless nothing lived."""

LEAVING = "(leaving)"
"""Stands among the candidates for all that is on its way out; no model is called so."""


def has_room(state: State, model: ModelState, demand: Sequence[tuple[str, int]], now: float) -> bool:
    """Ask for what the model lacks to serve. No room: send away what may go and wait, or say that there never is any.

    A model without work sends nobody away.
    """
    if not _has_fresh_sample(state, now):
        return False
    wanted = _with_fork_server(state, model, demand)
    answer = _let_pass(state, model, wanted, _ask(state, model, wanted, now), now)
    match answer:
        case Granted():
            model.stop_waiting()
            return True
        case Evict():
            _evict(state, model, answer, now)
            _wait(state, model, _until_gone(state, wanted, now), now)
        case Wait():
            _wait(state, model, answer, now)
        case Never():
            _refuse(state, model, answer)
    return False


def has_room_beside(state: State, model: ModelState, demand: Sequence[tuple[str, int]], now: float) -> bool:
    """One more worker of a model that has some: idle models go for its minimum, nobody for more; never waits."""
    if not _has_fresh_sample(state, now):
        return False
    wanted = _with_fork_server(state, model, demand)
    answer = _let_pass(state, model, wanted, _ask(state, model, wanted, now), now)
    if isinstance(answer, Evict) and len(model.staying) < model.spec.workers.min:
        _evict(state, model, answer, now)
    return isinstance(answer, Granted)


def has_room_for_fork_server(state: State, now: float) -> bool:
    """Whether the fork server itself fits; whoever needs it has asked for it with its own demand."""
    return isinstance(_ask(state, None, Demand(((FORK_SERVER, FORK_SERVER_BYTES),)), now), Granted)


def _has_fresh_sample(state: State, now: float) -> bool:
    """Else one is asked for, and its arrival staffs again; should it never come, the ledger speaks alone."""
    if now - state.sampled_at < STALE_SECONDS:
        return True
    state.sampled_at = now
    state.commands.append(TakeSample())
    return False


def _with_fork_server(state: State, model: ModelState, demand: Sequence[tuple[str, int]]) -> Demand:
    if state.fork_server is None and needs_fork_server(state, model):
        return Demand(((FORK_SERVER, FORK_SERVER_BYTES), *demand))
    return Demand(tuple(demand))


def _ask(state: State, model: ModelState | None, demand: Demand, now: float) -> Answer:
    return state.governor.ask(demand, candidates(state, model, now), now)


def _let_pass(state: State, model: ModelState, demand: Demand, answer: Answer, now: float) -> Answer:
    """Memory on its way back belongs to whoever waits for it longest: others take only what that one can spare."""
    ahead = [
        each.waiting.needed_bytes
        for each in state.models.values()
        if each is not model
        and each.waiting is not None
        and each.waiting.reason is WaitReason.EVICTION_UNDER_WAY
        and each.waiting_since is not None
        and (model.waiting_since is None or each.waiting_since < model.waiting_since)
    ]
    coming_back = sum(child.lease_bytes + child.reserved_bytes for child in _leaving(state))
    spare = state.governor.headroom(now) + coming_back - sum(ahead)
    if isinstance(answer, Granted | Evict) and ahead and demand.total_bytes > spare:
        return _until_gone(state, demand, now)
    return answer


def _until_gone(state: State, demand: Demand, now: float) -> Wait:
    budget = state.governor.budget
    available = max(0, state.governor.headroom(now))
    return Wait(demand.total_bytes, available, budget.bytes, budget.source, WaitReason.EVICTION_UNDER_WAY)


def _wait(state: State, model: ModelState, wait: Wait, now: float) -> None:
    if model.waiting is None:
        state.log("info", "waiting_for_memory", model=model.name, why=wait.text())
    model.waiting = wait
    if model.waiting_since is None and model.has_work:
        model.waiting_since = now


def _evict(state: State, model: ModelState, evict: Evict, now: float) -> None:
    for victim in evict.victims:
        state.log("info", "evicting", model=victim.name, for_model=model.name)
        unload(state, state.models[victim.name], now)


def _refuse(state: State, model: ModelState, never: Never) -> None:
    state.log("error", "never_fits", model=model.name, why=never.text())
    model.is_wanted = False
    model.stop_waiting()
    error = no_headroom(model, never)
    fail_all(state, model, error)
    refuse_waiters(state, model, error)


def candidates(state: State, asker: ModelState | None, now: float) -> list[Candidate]:
    """What could go for ``asker``: each loaded model as one, its template with all its workers; and what is going."""
    loaded = [
        _candidate(state, model, asker, now)
        for model in state.models.values()
        if not model.is_absent and not model.is_unloading
    ]
    leaving = tuple(holder for child in _leaving(state) for holder in _holders(child))
    return [*loaded, Candidate(LEAVING, leaving, idle_since=None, loaded_at=0.0, is_leaving=True)]


def _candidate(state: State, model: ModelState, asker: ModelState | None, now: float) -> Candidate:
    staying = [
        child for child in state.children.values() if child.model == model.name and not _is_leaving(state, child)
    ]
    return Candidate(
        name=model.name,
        holders=tuple(holder for child in staying for holder in _holders(child)),
        idle_since=_idle_since(state, model, asker, now),
        loaded_at=model.loaded_at,
        is_pinned=model.spec.pinned,
    )


def _idle_since(state: State, model: ModelState, asker: ModelState | None, now: float) -> float | None:
    """Since when it could go for the asker, for all that it does; None while it may not."""
    template = state.template_of(model)
    is_coming = any(worker.state in COMING for worker in model.workers.values()) or (
        template is not None and not template.is_ready
    )
    if asker is None or model is asker or is_coming or not asker.has_work:
        return None
    if not model.has_work:
        return model.last_used
    return now if _turn_is_over(model, asker, now) else None


def _turn_is_over(model: ModelState, asker: ModelState, now: float) -> bool:
    """Busy, but it has had its turn, and the asker has waited for one as long."""
    if asker.waiting_since is None:
        return False
    return now - asker.waiting_since >= TURN_SECONDS and now - model.loaded_at >= TURN_SECONDS


def _leaving(state: State) -> list[Child]:
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


def _holders(child: Child) -> tuple[str, ...]:
    return (child.holder, child.reserved_holder) if child.reserved_bytes else (child.holder,)


def new_child(
    state: State,
    kind: ChildKind,
    lease_bytes: int,
    now: float,
    *,
    model: str | None = None,
    parent: int | None = None,
    slot: int | None = None,
) -> Child:
    """Lease and record in one step: no process of ours is without either."""
    number = state.next_child()
    holder = FORK_SERVER if kind is ChildKind.FORK_SERVER else f"{kind.value}:{model}/{number}"
    state.governor.lease(holder, lease_bytes, now)
    child = Child(
        number=number,
        kind=kind,
        started_at=now,
        holder=holder,
        lease_bytes=lease_bytes,
        model=model,
        parent=parent,
        slot=slot,
    )
    state.children[number] = child
    return child


def reserve_first_worker(state: State, template: Child, lease_bytes: int, now: float) -> None:
    """Lease the first worker's memory with the template's: a template without a worker serves nobody."""
    state.governor.lease(template.reserved_holder, lease_bytes, now)
    template.reserved_bytes = lease_bytes


def give_back_reserved(state: State, template: Child) -> None:
    """Return the lease that waits for the first worker, if it still does."""
    if template.reserved_bytes:
        state.governor.release(template.reserved_holder)
        template.reserved_bytes = 0


def lease_cache(state: State, now: float) -> None:
    """Promise the cache all that it may become. Raises ConfigError when that does not fit the budget."""
    size = state.cache.limit_bytes
    if size == 0:
        return
    answer = state.governor.ask(Demand(((CACHE, size),)), (), now)
    if isinstance(answer, Granted):
        state.governor.lease(CACHE, size, now)
        return
    assert not isinstance(answer, Evict), "somebody to evict before the start: bug"
    raise ConfigError(f"daemon.cache_size does not fit the memory budget: {answer.text()}")


def settle_lease(state: State, child: Child, steady_bytes: int, measured_bytes: int) -> None:
    """The peak of loading is over: the lease comes down to what it holds then, or up to what it turned out to hold."""
    settled = max(steady_bytes, measured_bytes, 1)
    if settled <= child.lease_bytes:
        state.governor.lower(child.holder, settled)
        child.lease_bytes = settled
    state.governor.measured(child.holder, measured_bytes)
    grow_lease(state, child, measured_bytes)


def grow_lease(state: State, child: Child, measured_bytes: int) -> None:
    """What a process holds beyond its lease is leased too, as far as the budget goes; the log says so once."""
    if measured_bytes <= child.lease_bytes:
        return
    fits = state.governor.can_raise_to(child.holder, measured_bytes)
    if fits:
        state.governor.raise_to(child.holder, measured_bytes)
        child.lease_bytes = measured_bytes
    if not child.is_over_lease:
        state.log("warning", "over_the_lease", holder=child.holder, measured_bytes=measured_bytes, raised=fits)
    child.is_over_lease = True
