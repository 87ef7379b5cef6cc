"""How late a thread is with what it computes."""

from __future__ import annotations

from embeddaemon.workers.turns import GUESSED_SECONDS, PATIENCE, Turns


def test_nobody_is_late_who_does_nothing() -> None:
    turns = Turns(1000)
    turns.begin(0, 10, 1.0, now=1.0)
    turns.end(0)
    assert turns.latest(100.0) == (0, 0)


def test_latest_is_who_is_farthest_beyond_what_it_may_take() -> None:
    turns = Turns(1000)
    turns.begin(0, 10_000, 10.0, now=0.0)  # for long, and may
    turns.begin(1, 10, 0.01, now=50.0)
    assert turns.latest(60.0) == (10_000, int(1000 * PATIENCE * 0.01))


def test_what_was_never_measured_is_guessed_by_the_size_of_the_model() -> None:
    turns = Turns(8_000_000_000)
    turns.begin(0, 8192, None, now=0.0)
    assert turns.latest(1.0) == (1000, int(1000 * PATIENCE * 8e9 * 8192 * GUESSED_SECONDS))


def test_thread_that_goes_on_with_something_else_begins_anew() -> None:
    turns = Turns(1000)
    turns.begin(0, 10, 0.5, now=0.0)
    turns.restart(0, now=20.0)
    turns.restart(1, now=20.0)
    assert turns.latest(21.0) == (1000, int(1000 * PATIENCE * 0.5))
