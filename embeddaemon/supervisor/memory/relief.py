"""What is given up when memory runs short, whoever took it: idle workers trim, idle models go, the worst dies. Pure.

How short it is says governor/pressure.py; nothing new is leased meanwhile (governor/core.py). One thing goes at a time:
what it gives back must show before the next is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable

from embeddaemon.governor.eviction import Candidate, is_evictable, last_used
from embeddaemon.governor.pressure import Level
from embeddaemon.supervisor.commands import SendTrim
from embeddaemon.supervisor.memory.candidates import leaving, unneeded
from embeddaemon.supervisor.memory.leases import lease_of
from embeddaemon.supervisor.memory.room import evict
from embeddaemon.supervisor.processes.child import Child
from embeddaemon.supervisor.processes.departures import end_child, give_up
from embeddaemon.supervisor.processes.lifecycle import COMING, DeathClass, Worker, WorkerState
from embeddaemon.supervisor.state import State

TRIM_AGAIN_SECONDS = 10.0
"""Between two rounds of trimming: what is idle has given back everything once."""


def relieve(state: State, now: float) -> None:
    """Several times a second, and after every sample."""
    pressure = state.governor.pressure
    pressure.lapse(now)
    if pressure.level is not state.pressure_level:
        level = "info" if pressure.level is Level.NORMAL else "warning"
        state.log(level, "memory_pressure", pressure=pressure.level.name.lower(), why=pressure.why)
        state.pressure_level = pressure.level
    if pressure.level is Level.NORMAL:
        state.trimmed_at = float("-inf")
        return
    if not pressure.blocks_leases(now):
        # Stalls alone, for longer than we wait for them: who loads again what we send away makes more of them.
        return
    if now - state.trimmed_at >= TRIM_AGAIN_SECONDS:
        state.trimmed_at = now
        _trim_idle(state)
        if pressure.level is Level.HIGH:
            state.relieved_at = now
    if _is_shown(state, now):
        _give_up_one(state, now)


def _is_shown(state: State, now: float) -> bool:
    """Whether what the last one gave back shows in a sample by now: it is gone, and somebody looked since."""
    sample = state.governor.snapshot(now).sample
    if sample is None or sample.taken_at <= state.relieved_at:
        return False
    if state.governor.pressure.level is Level.HIGH:
        return not leaving(state)
    return all(child.ending is None for child in state.children.values())


def _give_up_one(state: State, now: float) -> None:
    pressure = state.governor.pressure
    is_critical, are_bytes_critical = pressure.level is Level.CRITICAL, pressure.level_by_bytes is Level.CRITICAL
    if is_critical and (worst := _worst(state, is_anyone=False)) is not None:
        _recycle(state, worst, DeathClass.OVER_LEASE, now)
    elif are_bytes_critical and (loading := _loading(state)) is not None:
        state.relieved_at = now
        state.log("warning", "load_given_up", holder=loading.holder, pressure=pressure.why)
        end_child(state, loading, DeathClass.PRESSURE, now)
    elif (idle := _longest_idle(leavers := unneeded(state), now)) is not None:
        state.relieved_at = now
        evict(state, (idle,), leavers, None, now)
    elif are_bytes_critical and (worst := _worst(state, is_anyone=True)) is not None:
        _recycle(state, worst, DeathClass.PRESSURE, now)


def _loading(state: State) -> Child | None:
    """Whatever loads weights now: nobody knows yet what it will take, and it has served nobody."""
    return next((child for child in state.children.values() if child.loads_on and not child.is_ready), None)


def _trim_idle(state: State) -> None:
    idle = [worker for worker in state.workers.values() if worker.state is WorkerState.READY]
    state.commands += [SendTrim(worker.number, worker.incarnation) for worker in idle]
    state.log("info", "trimming", workers=len(idle))


def _longest_idle(unneeded_now: Iterable[Candidate], now: float) -> Candidate | None:
    """The least recently used of what nobody needs; what was only just loaded goes as well, if there is no other."""
    able = [each for each in unneeded_now if is_evictable(each, now, minimum_residence_seconds=0.0)]
    return min(able, key=last_used, default=None)


def _worst(state: State, *, is_anyone: bool) -> Worker | None:
    """The worker that holds most beyond its lease; with ``is_anyone`` the one that holds most, within it or not."""
    excess = {
        worker.number: worker.private_bytes - (0 if is_anyone else lease_of(state, state.children[worker.child]).bytes)
        for worker in state.workers.values()
        if worker.state not in COMING and not state.children[worker.child].is_leaving
    }
    worst = max(excess, key=lambda number: excess[number], default=None)
    return None if worst is None or excess[worst] <= 0 else state.workers[worst]


def _recycle(state: State, worker: Worker, why: DeathClass, now: float) -> None:
    state.relieved_at = now
    state.counts["recycled"] += 1
    child = state.children[worker.child]
    state.log(
        "warning",
        "recycling",
        worker=worker.label,
        why=why.value,
        lease_bytes=lease_of(state, child).bytes,
        private_bytes=worker.private_bytes,
        held=worker.in_flight,
        pressure=state.governor.pressure.why,
    )
    give_up(state, worker, why, now)
