"""What a worker computes next, and how much of it at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddaemon.protocol import link
from embeddaemon.protocol.messages import Embed, Lane
from embeddaemon.workers.requests import Tokenized
from embeddaemon.workers.waiting import (
    BULK_TURN,
    FIRST_MICRO_BATCH,
    SMALLEST_MICRO_BATCH,
    MicroBatch,
    Waiting,
    Work,
    most_tokens_at_once,
    most_tokens_on_device,
)


def work(serial: int, lengths: list[int], lane: Lane = Lane.BULK) -> Work:
    ids = [np.zeros(length, dtype=np.int32) for length in lengths]
    tokenized = Tokenized(ids, [0] * len(ids), None, (), len(ids), sum(lengths))
    item = link.Item(serial=serial, model="m", expires_in_ms=1000, queue_us=0)
    made = Work(item, Embed(id=serial, model="m", lane=lane), tokenized, deadline=1.0, tokenize_us=0)
    made.expect(4)
    return made


def all_of(waiting: Waiting) -> list[MicroBatch]:
    found = []
    while (taken := waiting.take()) is not None:
        found.append(taken)
    return found


def tokens(micro_batch: MicroBatch) -> int:
    return sum(row.tokens for row in micro_batch)


@given(st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=9), max_size=9), st.integers(1, 4))
def test_every_row_is_computed_once_within_the_budget(requests: list[list[int]], streams: int) -> None:
    waiting = Waiting(512, streams)
    works = [work(serial, lengths) for serial, lengths in enumerate(requests)]
    waiting.add(works)
    found = all_of(waiting)
    rows = [(row.work.item.serial, row.index) for micro_batch in found for row in micro_batch]
    assert sorted(rows) == [(one.item.serial, index) for one in works for index in range(one.missing)]
    assert all(tokens(micro_batch) <= 512 for micro_batch in found)
    assert not waiting


def test_work_is_divided_among_the_streams() -> None:
    waiting = Waiting(8192, 2)
    waiting.add([work(1, [100] * 10)])
    assert [tokens(micro_batch) for micro_batch in all_of(waiting)] == [500, 500]


def test_first_micro_batches_are_small_and_those_of_a_fast_model_grow() -> None:
    waiting = Waiting(8192, 1)
    waiting.add([work(1, [100] * 80)])
    assert max(map(tokens, all_of(waiting))) <= FIRST_MICRO_BATCH
    waiting.learn(1000, 0.001)
    waiting.add([work(1, [100] * 80)])
    assert [tokens(micro_batch) for micro_batch in all_of(waiting)] == [8000]


def test_little_work_is_not_divided() -> None:
    waiting = Waiting(8192, 4)
    waiting.add([work(1, [10] * 20)])
    assert len(all_of(waiting)) == 1


def test_slow_model_gets_small_micro_batches_but_not_smaller_than_pays() -> None:
    waiting = Waiting(8192, 1)
    waiting.learn(1000, 0.1)  # 500 tokens in 0.05 s
    waiting.add([work(1, [100] * 40)])
    assert max(map(tokens, all_of(waiting))) <= 500
    for _ in range(50):
        waiting.learn(1000, 10.0)
    waiting.add([work(1, [16] * 160)])
    assert max(map(tokens, all_of(waiting))) == SMALLEST_MICRO_BATCH


def test_passes_over_few_tokens_say_nothing_about_a_token() -> None:
    waiting = Waiting(8192, 1)
    waiting.learn(10, 1.0)
    waiting.add([work(1, [100] * 10)])
    assert len(all_of(waiting)) == 1


def test_interactive_goes_first_and_bulk_never_stands_still() -> None:
    waiting = Waiting(512, 1)
    waiting.add([work(0, [512])])
    for serial in range(1, 2 * BULK_TURN):
        waiting.add([work(serial, [512], Lane.INTERACTIVE)])
    order = [micro_batch[0].work.item.serial for micro_batch in all_of(waiting)]
    assert order.index(0) == BULK_TURN - 1


@pytest.mark.parametrize("lane", list(Lane))
def test_what_is_put_back_goes_first_in_its_order(lane: Lane) -> None:
    waiting = Waiting(512, 1)
    works = [work(serial, [512], lane) for serial in range(3)]
    waiting.add(works)
    taken = [waiting.take(), waiting.take()]
    waiting.put_back(lane, [one for one in taken if one])
    assert [micro_batch[0].work for micro_batch in all_of(waiting)] == works


def test_small_requests_that_came_one_by_one_are_computed_together() -> None:
    waiting = Waiting(512, 1)
    for serial in range(20):
        waiting.add([work(serial, [30 - serial], Lane.INTERACTIVE)])
    (together,) = all_of(waiting)
    assert [row.tokens for row in together] == sorted(30 - serial for serial in range(20))


def test_small_requests_are_divided_among_the_streams() -> None:
    waiting = Waiting(8192, 2)
    for serial in range(60):
        waiting.add([work(serial, [20], Lane.INTERACTIVE)])
    assert [tokens(micro_batch) for micro_batch in all_of(waiting)][:2] == [600, 300]


def test_what_is_put_back_stays_by_itself() -> None:
    waiting = Waiting(512, 1)
    waiting.add([work(serial, [10]) for serial in range(3)])
    taken = waiting.take()
    assert taken is not None
    waiting.put_back(Lane.BULK, [[row] for row in taken])
    waiting.add([work(3, [10]), work(4, [10])])
    assert [len(micro_batch) for micro_batch in all_of(waiting)] == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("stream_tokens", "threads", "max_tokens", "expected"),
    [(2048, 1, 256, 2048), (2048, 2, 256, 4096), (1000, 2, 512, 2000), (2048, 4, 8192, 32768), (100, 1, 512, 512)],
)
def test_tokens_at_once_are_a_micro_batch_or_the_longest_text_for_each_stream(
    stream_tokens: int, threads: int, max_tokens: int, expected: int
) -> None:
    assert most_tokens_at_once(stream_tokens, threads, max_tokens) == expected


def test_tokens_at_once_on_a_device_are_two_micro_batches_or_the_longest_texts() -> None:
    assert most_tokens_on_device(8192, 256) == 16384
    assert most_tokens_on_device(1000, 8192) == 16384
