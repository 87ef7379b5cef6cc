"""One micro-batch through a model whose device may be too full for it."""

from __future__ import annotations

import logging
from math import inf

import numpy as np
import pytest

from embeddaemon.protocol import link
from embeddaemon.protocol.messages import Embed, Lane
from embeddaemon.workers.engines import DeviceFull, DeviceMemory, Ids, Rows, device_memory
from embeddaemon.workers.forward_pass import forward, halves
from embeddaemon.workers.requests import Tokenized
from embeddaemon.workers.waiting import MicroBatch, Row, Work
from tests.support.stub_engine import StubModel, stub_card, stub_order


class SmallDevice(StubModel):
    """Has room for so many tokens, and for fewer while it has given nothing back."""

    def __init__(self, room_tokens: int) -> None:
        super().__init__(stub_order())
        self.sizes: list[int] = []
        self.given_back = 0
        self._room_tokens = room_tokens

    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        self.sizes.append(len(ids))
        if len(ids) > self._room_tokens:
            raise DeviceFull("no room")
        return super().forward(ids, lengths, prompt_lengths)

    def device_memory(self) -> DeviceMemory:
        return DeviceMemory(1000, 10)

    def give_back(self) -> None:
        self.given_back += 1


def rows_of(*lengths: int) -> MicroBatch:
    ids = [np.full(length, 2 + length, dtype=np.int32) for length in lengths]
    tokenized = Tokenized(ids, [0] * len(ids), None, (), len(ids), sum(lengths))
    item = link.Item(serial=1, model="m", expires_in_ms=10_000, queue_us=0)
    work = Work(item, Embed(id=1, lane=Lane.BULK), tokenized, deadline=inf, tokenize_us=0)
    return [Row(work, index) for index in range(len(ids))]


def test_what_a_device_has_no_room_for_is_computed_in_halves(caplog: pytest.LogCaptureFixture) -> None:
    device = SmallDevice(room_tokens=100)
    with caplog.at_level(logging.WARNING):
        vectors = forward(device, stub_card(), rows_of(20, 30, 40, 60))
    np.testing.assert_array_equal(vectors, forward(StubModel(stub_order()), stub_card(), rows_of(20, 30, 40, 60)))
    assert device.sizes == [150, 50, 100]
    assert device.given_back == 1
    assert "device_full" in caplog.text


def test_half_that_is_too_much_as_well_fails() -> None:
    device = SmallDevice(room_tokens=50)
    with pytest.raises(DeviceFull):
        forward(device, stub_card(), rows_of(60, 60, 60, 60))
    assert device.sizes == [240, 120]


def test_single_text_is_tried_again_when_the_device_was_given_what_was_free() -> None:
    device = SmallDevice(room_tokens=50)
    with pytest.raises(DeviceFull):
        forward(device, stub_card(), rows_of(60))
    assert (device.sizes, device.given_back) == ([60, 60], 1)


def test_nothing_is_given_back_where_there_was_room() -> None:
    device = SmallDevice(room_tokens=100)
    forward(device, stub_card(), rows_of(50, 50))
    assert (device.sizes, device.given_back) == ([100], 0)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([5], [[5]]),
        ([1, 100], [[1], [100]]),
        ([1, 1, 1, 100], [[1, 1, 1], [100]]),
        ([10] * 8, [[10] * 4] * 2),
        ([100, 100, 100], [[100], [100, 100]]),
    ],
)
def test_halves_have_about_as_many_tokens_and_no_text_is_lost(lengths: list[int], expected: list[list[int]]) -> None:
    assert [[row.tokens for row in part] for part in halves(rows_of(*lengths))] == expected


def test_model_in_no_devices_memory_holds_none() -> None:
    assert device_memory(StubModel(stub_order())) == DeviceMemory(0, 0)
    assert device_memory(SmallDevice(1)) == DeviceMemory(1000, 10)
