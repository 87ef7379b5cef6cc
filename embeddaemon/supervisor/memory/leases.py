"""Leases of processes from before their start until they are reaped: taken, settled, grown and given back. Pure.

Whether there is room is asked in room.py; what follows when a process holds more than its lease is in overruns.py.
"""

from __future__ import annotations

from embeddaemon.errors import ConfigError
from embeddaemon.governor.budget import format_bytes
from embeddaemon.governor.core import FORK_SERVER, Demand, Evict, Granted, Want
from embeddaemon.governor.ledger import Lease
from embeddaemon.supervisor.commands import LimitMemory
from embeddaemon.supervisor.processes.child import Child, ChildKind
from embeddaemon.supervisor.requests.cache import CACHE
from embeddaemon.supervisor.state import State

HARD_LIMIT_PART = 8
"""A worker may pass its lease by an eighth before the system stops it: first it is to be trimmed, or recycled."""

RESERVE_PART = 4
"""At most a quarter of the reserve: four workers may do so at once, and the budget still holds."""


def new_child(
    state: State,
    kind: ChildKind,
    lease_bytes: int,
    now: float,
    *,
    model: str | None = None,
    parent: int | None = None,
    slot: int | None = None,
    on_device: Want | None = None,
) -> Child:
    """Lease and record in one step: no process of ours is without either. ``on_device``: what it takes beside RAM."""
    number = state.next_child()
    holder = FORK_SERVER if kind is ChildKind.FORK_SERVER else f"{kind.value}:{model}/{number}"
    state.governor.lease(holder, lease_bytes, now)
    child = Child(number=number, kind=kind, started_at=now, holder=holder, model=model, parent=parent, slot=slot)
    if on_device is not None:
        child.device_holder = f"{holder}@{on_device.device}"
        state.governor.lease(child.device_holder, on_device.bytes, now, on_device.device)
    state.children[number] = child
    _log_granted(state, child, now)
    return child


def _log_granted(state: State, child: Child, now: float) -> None:
    for holder in child.holders:
        lease = state.governor.lease_of(holder)
        headroom = state.governor.headroom(now, lease.device)
        state.log(
            "info", "granted", holder=holder, device=lease.device, lease_bytes=lease.bytes, headroom_bytes=headroom
        )


def lease_of(state: State, child: Child) -> Lease:
    """Its lease on host memory."""
    return state.governor.lease_of(child.holder)


def release(state: State, child: Child, now: float) -> None:
    """Its process was reaped: all its leases end."""
    for holder in child.holders:
        state.governor.release(holder, now)
    child.reserved_bytes = 0


def reserve_first_worker(state: State, template: Child, lease_bytes: int, now: float) -> None:
    """Lease the first worker's memory with the template's: a template without a worker serves nobody."""
    state.governor.lease(template.reserved_holder, lease_bytes, now)
    template.reserved_bytes = lease_bytes


def give_back_reserved(state: State, template: Child, now: float) -> None:
    """Return the lease that waits for the first worker, if it still does."""
    if template.reserved_bytes:
        state.governor.release(template.reserved_holder, now)
        template.reserved_bytes = 0


def lease_cache(state: State, now: float) -> None:
    """Promise the cache all that it may become. Raises ConfigError when that does not fit the budget."""
    size = state.cache.limit_bytes
    if size == 0:
        return
    answer = state.governor.ask(Demand((Want(CACHE, size),)), (), now)
    if isinstance(answer, Granted):
        state.governor.lease(CACHE, size, now)
        return
    assert not isinstance(answer, Evict), "somebody to evict before the start: bug"
    raise ConfigError(
        f"daemon.cache_size = {format_bytes(size)} does not fit the memory budget of "
        f"{format_bytes(state.governor.budget.bytes)}: {answer.text()}"
    )


def settle_lease(state: State, child: Child, steady_bytes: int, measured_bytes: int, peak_bytes: int = 0) -> None:
    """The peak of loading is over: the lease comes down to what it holds then, or up to what it turned out to hold."""
    settled = max(steady_bytes, measured_bytes, 1)
    if settled <= lease_of(state, child).bytes:
        state.governor.lower(child.holder, settled)
    state.governor.measured(child.holder, measured_bytes, peak_bytes)
    lease_bytes = lease_of(state, child).bytes
    if measured_bytes > lease_bytes and not raise_lease(state, child, measured_bytes):
        state.log(
            "warning", "larger_than_leased", holder=child.holder, lease_bytes=lease_bytes, private_bytes=measured_bytes
        )


def raise_lease(state: State, child: Child, wanted_bytes: int) -> bool:
    """Make its lease as large as it turned out to be, if the budget has room for that on paper."""
    before = lease_of(state, child).bytes
    if not state.governor.can_raise_to(child.holder, wanted_bytes):
        return False
    state.governor.raise_to(child.holder, wanted_bytes)
    state.log("info", "lease_raised", holder=child.holder, from_bytes=before, to_bytes=wanted_bytes)
    return True


def limit_worker(state: State, child: Child, held_bytes: int) -> None:
    """Have the system hold a worker to its lease and a little: what no measurement would see in time."""
    lease = lease_of(state, child).bytes
    slack = min(lease // HARD_LIMIT_PART, state.governor.budget.reserve_bytes // RESERVE_PART)
    state.commands.append(LimitMemory(child.number, max(0, lease - held_bytes) + slack))
