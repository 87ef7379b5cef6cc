"""Memory for what is to be started: what the governor is asked, what goes for it, whose turn it is. Pure.

What is started is decided in staffing.py; who could go is in candidates.py; the leases themselves in leases.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from embeddaemon.governor.core import FORK_SERVER, Answer, Demand, Evict, Granted, Never, Wait, WaitReason, Want
from embeddaemon.governor.eviction import Candidate
from embeddaemon.supervisor.commands import TakeSample
from embeddaemon.supervisor.memory.candidates import Leavers, candidates, has_waited_a_turn, leaving
from embeddaemon.supervisor.memory.learning import needs_fork_server
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.child import Child
from embeddaemon.supervisor.processes.departures import drain, unload
from embeddaemon.supervisor.requests.admission import no_headroom
from embeddaemon.supervisor.requests.life import fail_all, refuse_waiters
from embeddaemon.supervisor.state import State

STALE_SECONDS = 5.0
"""Nothing is started on a sample from before; the usual one is a second old (housekeeping.py), unless nothing lived."""


def has_room(state: State, model: ModelState, wants: Sequence[Want], now: float, *, loads_on: str | None) -> bool:
    """Ask for what the model lacks to serve. No room: send away what may go and wait, or say that there never is any.

    ``loads_on`` is the device on which it will be loading weights, where one load at a time is enough to plan for. A
    model without work sends nobody away.
    """
    if not _has_fresh_sample(state, now):
        return False
    demand = _with_fork_server(state, model, wants)
    leavers = candidates(state, model, now)
    answer = _ask(state, model, demand, leavers, now)
    if (never := _refusal_beside_itself(state, model, demand)) is not None:
        answer = never
    elif loads_on is not None and is_loading(state, loads_on):
        answer = state.governor.wait(demand, WaitReason.ANOTHER_LOAD, now)
    match answer:
        case Granted():
            model.stop_waiting()
            return True
        case Evict():
            evict(state, answer.victims, leavers, model, now)
            _wait(state, model, demand, state.governor.wait(demand, WaitReason.EVICTION_UNDER_WAY, now), now)
        case Wait():
            _wait(state, model, demand, answer, now)
        case Never():
            _refuse(state, model, answer)
    return False


def has_room_beside(
    state: State, model: ModelState, wants: Sequence[Want], now: float, *, loads_on: str | None
) -> bool:
    """One more worker of a model that has some: idle models go for its minimum, nobody for more; never waits."""
    if not _has_fresh_sample(state, now) or (loads_on is not None and is_loading(state, loads_on)):
        return False
    leavers = candidates(state, model, now)
    answer = _ask(state, model, _with_fork_server(state, model, wants), leavers, now)
    if isinstance(answer, Evict) and len(model.staying) < model.spec.workers.min:
        evict(state, answer.victims, leavers, model, now)
    return isinstance(answer, Granted)


def fits_now(state: State, wants: Sequence[Want], now: float) -> bool:
    """Whether there is memory for all of this with everything that is there, and nobody waits who comes first."""
    if any(model.waiting is not None for model in state.models.values()):
        return False
    return isinstance(state.governor.ask(Demand(tuple(wants)), (), now), Granted)


def never_fits_beside_pinned(state: State, model: ModelState, wants: Sequence[Want]) -> Never | None:
    """Why there would be no room for this even if all went that may go, the model itself with it; None if there is."""
    others = (child for child in state.children.values() if child.model != model.name and _stays(state, child, model))
    return state.governor.refusal_beside(Demand(tuple(wants)), (each for child in others for each in child.holders))


def has_room_for_fork_server(state: State, now: float) -> bool:
    """Whether the fork server itself fits; whoever needs it has asked for it with its own demand."""
    demand = Demand((Want(FORK_SERVER, state.fork_server_bytes),))
    return isinstance(state.governor.ask(demand, tuple(candidates(state, None, now)), now), Granted)


def _has_fresh_sample(state: State, now: float) -> bool:
    """Else one is asked for, and its arrival staffs again; should it never come, the ledger speaks alone."""
    if now - state.sampled_at < STALE_SECONDS:
        return True
    state.sampled_at = now
    state.commands.append(TakeSample())
    return False


def _with_fork_server(state: State, model: ModelState, wants: Sequence[Want]) -> Demand:
    if state.fork_server is None and needs_fork_server(state, model):
        return Demand((Want(FORK_SERVER, state.fork_server_bytes), *wants))
    return Demand(tuple(wants))


def is_loading(state: State, device: str) -> bool:
    """Whether some process loads weights on this device now: its peak is leased, and measured without another's."""
    return any(
        child.loads_on == device and not child.is_ready and not child.is_leaving for child in state.children.values()
    )


def _ask(state: State, model: ModelState, demand: Demand, leavers: Leavers, now: float) -> Answer:
    """What the governor says, as far as nobody else has waited longer for what would be taken."""
    answer = state.governor.ask(demand, tuple(leavers), now)
    if not isinstance(answer, Granted | Evict):
        return answer
    if any(_others_turn(state, model, demand, device, now) for device in demand.devices):
        return state.governor.wait(demand, WaitReason.ANOTHERS_TURN, now)
    return answer


def _others_turn(state: State, model: ModelState, demand: Demand, device: str, now: float) -> bool:
    """Whether others have waited longer for what it would take of a device, and it is more than they can spare."""
    ahead = [each for each in state.models.values() if _is_ahead(state, each, model, device, now)]
    if not ahead:
        return False
    coming_back = state.governor.held_bytes((holder for child in leaving(state) for holder in child.holders), device)
    promised = sum(each.waiting.needed_bytes for each in ahead if each.waiting is not None)
    return demand.bytes_on(device) > state.governor.headroom(now, device) + coming_back - promised


def _is_ahead(state: State, other: ModelState, model: ModelState, device: str, now: float) -> bool:
    """Whether memory on its way back is the other's first, and nobody else's may be taken before it has had its turn.

    Only a model that can have what it waits for: not one for which what is pinned leaves no room, nor one that waits
    for processes that are not ours.
    """
    if other is model or other.waiting is None or other.waiting_since is None or other.waiting.device != device:
        return False
    if model.waiting_since is not None and model.waiting_since <= other.waiting_since:
        return False
    if other.waiting.reason is WaitReason.EVICTION_UNDER_WAY:
        return True
    if other.waiting.reason in (WaitReason.OTHER_PROCESSES, WaitReason.PRESSURE):
        return False
    return has_waited_a_turn(other, now) and _fits_beside_pinned(state, other)


def _fits_beside_pinned(state: State, model: ModelState) -> bool:
    """Whether it would fit if everything went that may go."""
    assert model.demand is not None, "it waits for nothing: bug"
    pinned = (child for child in state.children.values() if _stays(state, child, model))
    return state.governor.refusal_beside(model.demand, (each for child in pinned for each in child.holders)) is None


def _stays(state: State, child: Child, asker: ModelState) -> bool:
    """Pinned, or the asker's own."""
    return child.model is not None and (child.model == asker.name or state.models[child.model].spec.pinned)


def _refusal_beside_itself(state: State, model: ModelState, demand: Demand) -> Never | None:
    """Its own template stays, so what does not fit beside that never does. Not what has loaded files of before."""
    gone = {model.watch.successor, *model.watch.leaving}
    own = [
        child
        for child in state.children.values()
        if child.model == model.name and not child.is_leaving and gone.isdisjoint({child.number, child.parent})
    ]
    return state.governor.refusal_beside(demand, (holder for child in own for holder in child.holders))


def _wait(state: State, model: ModelState, demand: Demand, wait: Wait, now: float) -> None:
    if model.waiting is None or model.waiting.reason is not wait.reason:
        state.log(
            "info" if model.waiting is None else "debug",
            "waiting_for_memory",
            model=model.name,
            reason=wait.reason.name.lower(),
            device=wait.device,
            needed_bytes=wait.needed_bytes,
            available_bytes=wait.available_bytes,
            why=wait.text(),
        )
    model.waiting, model.demand = wait, demand
    if model.waiting_since is None and model.has_work:
        model.waiting_since = now


def evict(state: State, victims: Iterable[Candidate], leavers: Leavers, asker: ModelState | None, now: float) -> None:
    """Send the victims away, for a model that needs their memory, or for the machine itself."""
    for victim in victims:
        leaver = leavers[victim]
        assert leaver is not None, "what is leaving already was chosen: bug"
        state.counts["evicted"] += 1
        state.log(
            "info",
            "evicting",
            what=victim.name,
            for_model=None if asker is None else asker.name,
            frees_bytes=sum(state.governor.held_bytes(victim.holders, each) for each in state.governor.devices),
            idle_seconds=round(now - (victim.idle_since or now), 1),
            busy=leaver.model.has_work,
        )
        if leaver.worker is None:
            unload(state, leaver.model, now)
        else:
            drain(state, leaver.worker, now)


def _refuse(state: State, model: ModelState, never: Never) -> None:
    state.log(
        "error",
        "never_fits",
        model=model.name,
        device=never.device,
        needed_bytes=never.needed_bytes,
        available_bytes=never.available_bytes,
        why=never.text(),
    )
    model.is_wanted = False
    model.stop_waiting()
    error = no_headroom(model, never)
    fail_all(state, model, error)
    refuse_waiters(state, model, error)
