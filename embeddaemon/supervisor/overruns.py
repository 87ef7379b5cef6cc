"""A worker that holds more than its lease: its lease grows, or it is trimmed, then recycled. Pure.

What is done when the machine itself runs short is in relief.py; what a worker cannot be allowed to take at all, its
hard limit stops (leases.py).
"""

from __future__ import annotations

from embeddaemon.protocol import link
from embeddaemon.supervisor.commands import SendTrim
from embeddaemon.supervisor.departures import drain
from embeddaemon.supervisor.leases import lease_of, limit_worker, raise_lease
from embeddaemon.supervisor.lifecycle import SERVING, Worker
from embeddaemon.supervisor.needs import worker_measured
from embeddaemon.supervisor.state import Child, ModelState, State

MARGIN_PERCENT = 105
"""A lease is raised to a little more than was measured, or the next few pages would pass it again."""

MOST_FACTOR = 2
"""A lease grows to at most so many times what a worker was taken to need: what needs more than that, leaks."""


def heard(state: State, worker: Worker, child: Child, beat: link.Heartbeat, now: float) -> None:
    """What a worker says about its memory, and what follows if it is more than it was promised."""
    worker.private_bytes = beat.private_bytes
    state.governor.measured(child.holder, beat.private_bytes, beat.peak_bytes)
    if child.device_holder is not None:
        state.governor.measured(child.device_holder, beat.device_bytes)
    model = state.models[worker.model]
    worker_measured(state, model, worker, beat, now)
    needed_bytes = max(beat.private_bytes, beat.peak_bytes)
    if needed_bytes <= lease_of(state, child).bytes:
        child.overrun.is_known = False
        return
    if worker.state in SERVING and not _raised(state, model, child, needed_bytes, beat.private_bytes):
        _bring_down(state, worker, child, beat, now)


def _raised(state: State, model: ModelState, child: Child, needed_bytes: int, held_bytes: int) -> bool:
    """Whether its lease could be made what it needs; the system lets it grow as far then."""
    wanted_bytes = needed_bytes * MARGIN_PERCENT // 100
    if model.automatic is not None and wanted_bytes > MOST_FACTOR * model.automatic.worker_bytes:
        return False
    if not raise_lease(state, child, wanted_bytes):
        return False
    if child.device_holder is None:
        limit_worker(state, child, held_bytes)
    return True


def _bring_down(state: State, worker: Worker, child: Child, beat: link.Heartbeat, now: float) -> None:
    """Have it give back what is free in it; if that does not help, it finishes what it holds and goes."""
    overrun, lease_bytes = child.overrun, lease_of(state, child).bytes
    if not overrun.is_known:
        overrun.is_known = True
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
    overrun.is_recycled = True
    state.counts["recycled"] += 1
    state.log(
        "warning", "recycling", worker=worker.label, why="over_lease", lease_bytes=lease_bytes,
        private_bytes=beat.private_bytes, held=worker.in_flight,
    )  # fmt: skip
    drain(state, worker, now)
