"""The memory part of what ``status`` answers: budgets, leases, pressure, and what waits (docs/protocol.md). Pure.

The rest of that document is in documents.py.
"""

from __future__ import annotations

from typing import Any

from embeddaemon.governor.device import Snapshot
from embeddaemon.governor.ledger import Lease
from embeddaemon.governor.pressure import OBSERVATION_VALID_SECONDS
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.child import Child, ChildKind
from embeddaemon.supervisor.processes.departures import worker_of
from embeddaemon.supervisor.state import State


def memory(state: State, now: float) -> dict[str, Any]:
    """Host memory as its own keys, every device in ``devices``, and whose memory it is."""
    snapshots = state.governor.snapshots(now)
    holders = {holder: child for child in state.children.values() for holder in child.holders}
    return {
        **_device(snapshots[0]),
        "devices": [_device(snapshot) for snapshot in snapshots],
        "pressure": _pressure(state, now),
        "hard_limits": state.hard_limits,
        "supervisor_bytes": state.governor.observation.own_bytes,
        "leases": [_lease(lease, holders.get(lease.holder)) for snapshot in snapshots for lease in snapshot.leases],
        "waiting": [_waiting(model, now) for model in state.models.values() if model.waiting is not None],
    }


def _device(snapshot: Snapshot) -> dict[str, Any]:
    budget = snapshot.budget
    return {
        "device": budget.device,
        "budget_bytes": budget.bytes,
        "limit_bytes": budget.limit.bytes,
        "limit_source": budget.limit.source,
        "reserve_bytes": budget.reserve_bytes,
        "leased_bytes": snapshot.leased_bytes,
        "measured_bytes": snapshot.resident_bytes,
        "pending_bytes": snapshot.pending_bytes,
        "returning_bytes": snapshot.returning_bytes,
        "free_bytes": snapshot.free_bytes,
        "headroom_bytes": snapshot.headroom_bytes,
    }


def _pressure(state: State, now: float) -> dict[str, Any]:
    pressure, stall = state.governor.pressure, state.governor.observation.stall
    if stall is not None and now - stall.taken_at > OBSERVATION_VALID_SECONDS:
        stall = None
    return {
        "level": pressure.level.name.lower(),
        "since_seconds": max(0.0, now - max(pressure.since, state.machine.started_at)),
        "why": pressure.why,
        "stall_some_percent": None if stall is None else stall.some_percent,
        "stall_full_percent": None if stall is None else stall.full_percent,
    }


def _lease(lease: Lease, child: Child | None) -> dict[str, Any]:
    return {
        "holder": lease.holder,
        "device": lease.device,
        "model": None if child is None else child.model,
        # A worker's that was promised memory with its template's has no process yet.
        "pid": None if child is None or lease.holder == child.reserved_holder else child.pid,
        "bytes": lease.bytes,
        "declared_bytes": lease.declared_bytes,
        "resident_bytes": lease.resident_bytes,
        "peak_bytes": lease.peak_bytes,
    }


def _waiting(model: ModelState, now: float) -> dict[str, Any]:
    assert model.waiting is not None, "only models that wait are listed"
    return {
        "model": model.name,
        "why": model.waiting.text(),
        "reason": model.waiting.reason.name.lower(),
        "device": model.waiting.device,
        "needed_bytes": model.waiting.needed_bytes,
        "available_bytes": model.waiting.available_bytes,
        "since_seconds": None if model.waiting_since is None else now - model.waiting_since,
    }


def processes(state: State, now: float) -> list[dict[str, Any]]:
    """Every process below us, in the order of their starts: what it is, and its host memory."""
    return [_process(state, child, now) for child in state.children.values()]


def _process(state: State, child: Child, now: float) -> dict[str, Any]:
    worker = worker_of(state, child)
    lease = state.governor.lease_of(child.holder)
    return {
        "kind": child.kind.value,
        "model": child.model,
        "worker": None if worker is None else f"{worker.slot}.{worker.incarnation}",
        "pid": child.pid,
        "state": _state(child) if worker is None else worker.state.value,
        "age_seconds": now - child.started_at,
        "in_flight": 0 if worker is None else worker.in_flight,
        "idle_seconds": None if worker is None or worker.dispatches else max(0.0, now - worker.idle_since),
        "declared_bytes": lease.declared_bytes,
        "leased_bytes": lease.bytes,
        "measured_bytes": lease.resident_bytes,
        "peak_bytes": lease.peak_bytes,
    }


def _state(child: Child) -> str:
    """Of a process that is no worker."""
    if child.is_leaving:
        return "leaving"
    if child.is_ready:
        return "ready"
    return "fetching" if child.kind is ChildKind.FETCHER else "loading"
