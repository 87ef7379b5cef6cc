"""The number of threads for a micro-batch that is alone: the quicker way is found, kept, and looked at again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from embeddaemon.workers.width import Width

TOKENS = 18


def run(width: Width, seconds: Callable[[int], float], times: int) -> Counter[int]:
    """How often each number of threads was chosen."""
    chosen: Counter[int] = Counter()
    for _ in range(times):
        threads = width.choose(TOKENS)
        chosen[threads] += 1
        width.learn(TOKENS, threads, seconds(threads))
    return chosen


def test_more_threads_are_taken_where_they_are_quicker() -> None:
    chosen = run(Width(4), lambda threads: 0.004 / threads, 200)
    assert chosen[4] > 180
    assert set(chosen) == {1, 2, 4}


def test_one_thread_is_taken_where_many_wait_for_each_other() -> None:
    assert run(Width(2), lambda threads: 0.002 if threads == 1 else 0.009, 300)[1] > 275


def test_way_that_becomes_slow_is_left() -> None:
    width = Width(2)
    run(width, lambda threads: 0.003 / threads, 50)
    assert run(width, lambda threads: 0.003 if threads == 1 else 0.012, 100)[1] > 80


def test_way_that_was_slow_is_found_again_when_it_is_quick() -> None:
    width = Width(2)
    run(width, lambda threads: 0.003 if threads == 1 else 0.004, 100)
    run(width, lambda threads: 0.003 / threads, 600)
    assert run(width, lambda threads: 0.003 / threads, 100)[2] > 95


def test_first_pass_of_a_way_which_makes_its_threads_is_not_counted() -> None:
    width = Width(2)
    slow_once = iter([0.5])
    run(width, lambda threads: next(slow_once, 0.001) if threads == 2 else 0.002, 8)
    assert run(width, lambda threads: 0.002 / threads, 20)[2] == 20


def test_sizes_are_learned_apart() -> None:
    width = Width(2)
    for _ in range(12):
        for tokens, seconds in ((16, {1: 1.0, 2: 2.0}), (2048, {1: 2.0, 2: 1.0})):
            threads = width.choose(tokens)
            width.learn(tokens, threads, seconds[threads])
    assert (width.choose(16), width.choose(2048)) == (1, 2)


def test_one_thread_is_all_there_is() -> None:
    width = Width(1)
    assert {width.choose(TOKENS) for _ in range(300)} == {1}


def test_trial_that_others_always_join_ends() -> None:
    """Only passes that were alone all the time are learned from; a slow way is hardly ever alone."""
    width = Width(4)
    chosen: Counter[int] = Counter()
    for _ in range(300):
        threads = width.choose(TOKENS)
        chosen[threads] += 1
        if threads == 1:
            width.learn(TOKENS, threads, 0.002)
    assert chosen[1] > 200


def test_way_of_which_nothing_is_known_but_that_others_joined_is_tried_again() -> None:
    width = Width(2)
    for _ in range(20):
        threads = width.choose(TOKENS)
        if threads == 1:
            width.learn(TOKENS, threads, 0.002)
    assert run(width, lambda threads: 0.002 / threads, 100)[2] > 70
