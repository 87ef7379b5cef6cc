"""A worker that holds more than its lease: its lease grows, or it is trimmed, then recycled. Pure.

What is done when the machine itself runs short is in relief.py; what a worker cannot be allowed to take at all, its
hard limit stops (leases.py).
"""

from __future__ import annotations

from embeddaemon.protocol import link
from embeddaemon.supervisor.commands import SendTrim
from embeddaemon.supervisor.memory.leases import lease_of, limit_worker, raise_lease
from embeddaemon.supervisor.memory.needs import most_worker_bytes, needs_at_least, worker_measured
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.child import Child
from embeddaemon.supervisor.processes.departures import drain
from embeddaemon.supervisor.processes.lifecycle import SERVING, Worker
from embeddaemon.supervisor.state import State

MARGIN_PERCENT = 105
"""A lease is raised to a little more than was measured, or the next few pages would pass it again."""

QUIET_SECONDS = 10.0
"""A worker that was below its lease for so long is over it anew: trimmed again, and said again."""


def heard(state: State, worker: Worker, child: Child, beat: link.Heartbeat, now: float) -> None:
    """What a worker says about its memory, and what follows if it is more than it was promised."""
    worker.private_bytes = beat.private_bytes
    state.governor.measured(child.holder, beat.private_bytes, beat.peak_bytes)
    if child.device_holder is not None:
        _device_measured(state, child.device_holder, beat.device_bytes)
    model = state.models[worker.model]
    worker_measured(state, model, worker, beat, now)
    needed_bytes = max(beat.private_bytes, beat.peak_bytes)
    if needed_bytes <= lease_of(state, child).bytes or worker.state not in SERVING:
        return
    if not _raised(state, model, child, needed_bytes, beat.private_bytes):
        _bring_down(state, worker, beat, now)


def _device_measured(state: State, holder: str, device_bytes: int) -> None:
    """On a card nothing is trimmed or recycled for its lease; the ledger follows as far as the budget goes."""
    state.governor.measured(holder, device_bytes)
    lease_bytes = state.governor.lease_of(holder).bytes
    if device_bytes > lease_bytes and state.governor.can_raise_to(holder, device_bytes):
        state.governor.raise_to(holder, device_bytes)
        state.log("info", "lease_raised", holder=holder, from_bytes=lease_bytes, to_bytes=device_bytes)


def _raised(state: State, model: ModelState, child: Child, needed_bytes: int, held_bytes: int) -> bool:
    """Whether its lease could be made what it needs; the system lets it grow as far then."""
    wanted_bytes = needed_bytes * MARGIN_PERCENT // 100
    if wanted_bytes > most_worker_bytes(model):
        return False
    if not raise_lease(state, child, wanted_bytes):
        return False
    if child.device_holder is None:
        limit_worker(state, child, held_bytes)
    return True


def _bring_down(state: State, worker: Worker, beat: link.Heartbeat, now: float) -> None:
    """Have it give back what is free in it; if that does not help, it finishes what it holds and goes."""
    child = state.children[worker.child]
    overrun, lease_bytes = child.overrun, lease_of(state, child).bytes
    is_new, overrun.over_at = now - overrun.over_at > QUIET_SECONDS, now
    if is_new:
        overrun.trims_sent = beat.trims + 1
        state.commands.append(SendTrim(worker.number, worker.incarnation))
        state.log(
            "warning",
            "over_the_lease",
            worker=worker.label,
            lease_bytes=lease_bytes,
            private_bytes=beat.private_bytes,
            peak_bytes=beat.peak_bytes,
        )
        return
    if beat.trims < overrun.trims_sent or beat.private_bytes <= lease_bytes:
        # It has not obeyed yet; or it only passes its lease while it computes, which its hard limit watches.
        return
    state.counts["recycled"] += 1
    state.log(
        "warning",
        "recycling",
        worker=worker.label,
        why="over_lease",
        lease_bytes=lease_bytes,
        private_bytes=beat.private_bytes,
        held=worker.in_flight,
    )
    # There was no room for it here: its successor asks for as much, and others go for that.
    needs_at_least(state, state.models[worker.model], beat.private_bytes * MARGIN_PERCENT // 100)
    drain(state, worker, now)
