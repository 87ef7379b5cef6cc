from __future__ import annotations

import pytest

from embeddaemon.protocol.messages import Lane
from embeddaemon.supervisor.processes.lifecycle import (
    ENDED,
    TRANSITIONS,
    DeathClass,
    Dispatched,
    IllegalTransition,
    Worker,
    WorkerState,
    classify,
    explain,
)


def worker() -> Worker:
    return Worker(number=3, slot=0, incarnation=2, child=7, model="mini", started_at=0.0)


def test_every_state_has_its_transitions_and_only_ends_have_none() -> None:
    assert set(TRANSITIONS) == set(WorkerState)
    assert {state for state, following in TRANSITIONS.items() if not following} == ENDED


def test_illegal_transition_raises_with_the_story_and_changes_nothing() -> None:
    one = worker()
    one.becomes(WorkerState.LOADING, 1.0)
    one.becomes(WorkerState.READY, 2.5)
    with pytest.raises(IllegalTransition, match=r"mini/0\.2: ready -> starting .*loading->ready@2\.500"):
        one.becomes(WorkerState.STARTING, 3.0)
    assert one.state is WorkerState.READY


def test_worker_is_busy_while_it_holds_a_dispatch() -> None:
    one = worker()
    one.becomes(WorkerState.READY, 1.0)
    one.dispatches[5] = Dispatched(Lane.BULK, 1.5, {1: 10, 2: 10}, 20)
    one.settles(2.0)
    assert (one.state, one.in_flight) == (WorkerState.BUSY, 2)
    one.dispatches.clear()
    one.settles(3.0)
    assert (one.state, one.idle_since) == (WorkerState.READY, 3.0)


@pytest.mark.parametrize(
    ("exit_code", "death"),
    [
        (0, DeathClass.STOPPED),
        (1, DeathClass.EXITED),
        (3, DeathClass.LOAD_FAILED),
        (4, DeathClass.EXITED),
        (6, DeathClass.FORK_FAILED),
        (-4, DeathClass.ILLEGAL_INSTRUCTION),
        (-6, DeathClass.ABORTED),
        (-7, DeathClass.WEIGHTS_CHANGED),
        (-9, DeathClass.KILLED),
        (-11, DeathClass.SEGFAULT),
        (-8, DeathClass.SIGNALLED),
        (-31, DeathClass.SIGNALLED),
        (-15, DeathClass.TERMINATED),
        (-3, DeathClass.TERMINATED),
        (-12, DeathClass.TERMINATED),
        (-24, DeathClass.TERMINATED),
        (-40, DeathClass.TERMINATED),
        (None, DeathClass.KILLED),
    ],
)
def test_exit_code_says_what_kind_of_death_it_was(exit_code: int | None, death: DeathClass) -> None:
    assert classify(exit_code) is death


@pytest.mark.parametrize("death", list(DeathClass))
def test_every_death_has_words(death: DeathClass) -> None:
    assert explain(death, -15)
