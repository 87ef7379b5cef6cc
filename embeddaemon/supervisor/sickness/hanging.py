"""Processes that live and get no further: first they write where they are to the log, then they are killed. Pure."""

from __future__ import annotations

from embeddaemon.supervisor.commands import DumpStacks
from embeddaemon.supervisor.processes.child import Child
from embeddaemon.supervisor.processes.departures import give_up
from embeddaemon.supervisor.processes.lifecycle import DeathClass, Worker
from embeddaemon.supervisor.state import State

DUMP_SECONDS = 0.1
"""Between the two: a stack dump takes milliseconds, and a process that is stopped makes none however long we wait."""


def is_dumped(state: State, child: Child, why: str, now: float) -> bool:
    """Have it write its threads' stacks, once. Whether that is long enough ago to kill it."""
    if child.dumped_at is None:
        child.dumped_at = now
        state.log("warning", "hangs", what=child.kind.value, model=child.model, pid=child.pid, why=why)
        state.commands.append(DumpStacks(child.number))
    return now - child.dumped_at >= DUMP_SECONDS


def is_stalled(state: State, worker: Worker) -> bool:
    """Whether one of its threads is at what it computes for longer than can be.

    As the worker last said: its other threads may work on, and its heart beats.
    """
    return worker.turn_ms > max(1000 * state.settings.stall_seconds, worker.patience_ms)


def look_at_turn(state: State, worker: Worker, child: Child, now: float) -> None:
    """Give it up when it is stalled, and still is after the dump: one that was only stopped goes on meanwhile."""
    if not is_stalled(state, worker):
        child.dumped_at = None
    elif is_dumped(state, child, f"at one turn for {worker.turn_ms} ms", now):
        assert child.dumped_at is not None, "dumped without being told: bug"
        if worker.heard_at > child.dumped_at:
            give_up(state, worker, DeathClass.STALLED, now)
