"""Telling processes to go: models unloaded, workers drained, children killed. Pure.

What follows when they have gone is in endings.py.
"""

from __future__ import annotations

from embeddaemon.supervisor.commands import Kill, SendDrain
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.child import Child
from embeddaemon.supervisor.processes.lifecycle import COMING, SERVING, DeathClass, Worker, WorkerState
from embeddaemon.supervisor.state import State


def unload(state: State, model: ModelState, now: float) -> None:
    """Drain its workers; when the last is gone its template goes too. Work that waits brings it back after."""
    model.is_wanted = False
    model.stop_waiting()
    if model.is_absent and model.fetcher is None:
        return
    model.is_unloading = True
    if model.fetcher is not None:
        end_child(state, state.children[model.fetcher], DeathClass.STOPPED, now)
    for number in (model.watch.successor, model.watch.fetcher):
        if (beside := state.children.get(number or 0)) is not None:
            end_child(state, beside, DeathClass.STOPPED, now)
    model.watch.abandon()
    for worker in list(model.workers.values()):
        drain(state, worker, now)
    template = state.template_of(model)
    if not model.workers and template is not None:
        end_child(state, template, DeathClass.STOPPED, now)


def drain(state: State, worker: Worker, now: float) -> None:
    """Let a worker finish what it holds and go; one that does not serve yet just goes."""
    if worker.state in COMING:
        end_child(state, state.children[worker.child], DeathClass.STOPPED, now)
    elif worker.state in SERVING:
        worker.becomes(WorkerState.DRAINING, now)
        worker.drain_by = now + state.settings.drain_seconds
        state.commands.append(SendDrain(worker.number, worker.incarnation))


def give_up(state: State, worker: Worker, why: DeathClass, now: float) -> None:
    """A worker that must not go on: kill it; what it holds is taken back when it is reaped."""
    state.log("warning", "killing", worker=worker.label, why=why.value)
    end_child(state, state.children[worker.child], why, now)


def end_child(state: State, child: Child, why: DeathClass, now: float) -> None:
    """Kill a process, remembering why; its end is reported as any other. Nothing new is given to it."""
    if child.ending is None:
        child.ending, child.ending_at = why, now
    worker = worker_of(state, child)
    if worker is not None and worker.state is not WorkerState.DRAINING:
        worker.becomes(WorkerState.DRAINING, now)
    state.commands.append(Kill(child.number))


def worker_of(state: State, child: Child) -> Worker | None:
    """The worker that a child lives for, unless it was given up already."""
    if child.model is None or child.slot is None:
        return None
    worker = state.models[child.model].workers.get(child.slot)
    return worker if worker is not None and worker.child == child.number else None
