"""The compute threads around an engine that is not torch: how many there are, and what ends the process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import zmq

from embeddaemon.protocol import codec, control, link
from embeddaemon.protocol.journal import digest_of_text
from embeddaemon.protocol.messages import Embed, ErrorAnswer, Lane, Vectors
from embeddaemon.workers.compute import Compute
from embeddaemon.workers.engines import Ids, Rows
from embeddaemon.workers.loading import Loaded
from embeddaemon.workers.requests import Tokenized
from embeddaemon.workers.screening import Screen
from embeddaemon.workers.waiting import Work, most_tokens_at_once
from tests.support.stub_engine import StubModel, stub_order
from tests.support.waiting import seconds, wait_until

ROOT = Path(__file__).parents[3]
COMMAND = control.ForkWorker(child=1, worker=1, incarnation=1, endpoint="", threads=4, heartbeat_seconds=1.0)


class Device(StubModel):
    """Computes nothing before two micro-batches are there."""

    def __init__(self, *, is_reentrant: bool = True) -> None:
        super().__init__(stub_order())
        self.facts = replace(self.facts, device="cuda:0")
        self.is_reentrant = is_reentrant
        self.sizes: list[int] = []
        self._both_are_here = threading.Barrier(2)

    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        self.sizes.append(len(ids))
        if self.is_reentrant:
            self._both_are_here.wait(seconds(10))
        return super().forward(ids, lengths, prompt_lengths)


@pytest.fixture
def sockets() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """The worker's, and the supervisor's end."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as ours, context.socket(zmq.PAIR) as theirs:
        theirs.bind("inproc://link")
        ours.connect("inproc://link")
        theirs.setsockopt(zmq.RCVTIMEO, int(1000 * seconds(10)))
        yield ours, theirs


def compute_with(model: StubModel, connection: zmq.Socket[bytes], token_budget: int = 256) -> Compute:
    order = stub_order(token_budget=token_budget)
    return Compute(COMMAND, Loaded(model, order, {}, seconds=0.0, peak_bytes=0), connection)


def work(serial: int, texts: int = 1, length: int = 200) -> Work:
    ids = [np.full(length, 2 + serial, dtype=np.int32) for _ in range(texts)]
    tokenized = Tokenized(ids, [0] * texts, None, (), texts, texts * length)
    item = link.Item(serial=serial, model="m", expires_in_ms=10_000, queue_us=0)
    return Work(item, Embed(id=serial, model="m", lane=Lane.BULK), tokenized, deadline=inf, tokenize_us=0)


def test_next_micro_batch_is_sent_to_a_device_while_it_computes(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    ours, theirs = sockets
    compute = compute_with(Device(), ours)
    compute.submit([work(serial) for serial in range(6)])
    compute.start()
    compute.finish()
    answered = [link.decode_from_worker(theirs.recv_multipart()[0]) for _ in range(7)]
    assert isinstance(answered[-1], link.Drained)
    assert sorted(one.serial for one in answered if isinstance(one, link.Result)) == list(range(6))
    assert compute.ended(seconds(10))
    assert compute.progress == 6


@pytest.mark.parametrize("is_reentrant", [True, False])
def test_micro_batches_of_a_device_are_not_divided_among_threads(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]], is_reentrant: bool
) -> None:
    ours, theirs = sockets
    device = Device(is_reentrant=is_reentrant)
    compute = compute_with(device, ours, token_budget=1000)
    compute.submit([work(1, texts=10)])
    compute.start()
    compute.finish()
    assert isinstance(link.decode_from_worker(theirs.recv_multipart()[0]), link.Result)
    assert isinstance(link.decode_from_worker(theirs.recv_multipart()[0]), link.Drained)
    assert compute.ended(seconds(10))
    assert device.sizes == [1000, 1000]
    assert device.threads == 1


def test_answered_request_is_held_by_nobody(sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]) -> None:
    ours, theirs = sockets
    compute = compute_with(StubModel(stub_order()), ours)
    compute.start()
    answered = work(1)
    compute.submit([answered])
    vectors = weakref.ref(answered.rows)
    del answered
    theirs.recv_multipart()
    wait_until(lambda: vectors() is None)
    compute.finish()
    assert compute.ended(seconds(10))


def test_device_that_is_lost_ends_the_process_and_not_the_request() -> None:
    """Whoever holds the request then, the supervisor, gives it to another worker."""
    program = [sys.executable, "-m", "tests.support.lost_device"]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds(60))
    assert ended.returncode == control.EXIT_BUG, ended.stderr
    assert "DeviceLost: cuda:0 failed" in ended.stderr
    assert ended.stdout == ""


class Streams(StubModel):
    """Remembers how many tokens were in it at once. Every pass waits until all streams are there."""

    def __init__(self, streams: int) -> None:
        super().__init__(stub_order())
        self.is_reentrant = True
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._all_are_here = threading.Barrier(streams)

    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        with self._lock:
            self._at_once += len(ids)
            self.most_at_once = max(self.most_at_once, self._at_once)
        self._all_are_here.wait(seconds(10))
        with self._lock:
            self._at_once -= len(ids)
        return super().forward(ids, lengths, prompt_lengths)


def test_streams_compute_no_more_at_once_than_memory_is_reckoned_for(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    ours, theirs = sockets
    model = Streams(COMMAND.threads)
    compute = compute_with(model, ours, token_budget=100_000)
    compute._waiting.learn(10_000, 1e-6)  # so quick that time is no reason for a small micro-batch
    compute.submit([work(1, texts=160)])  # four micro-batches of 8,000 tokens, were there no bound
    compute.start()
    compute.finish()
    assert isinstance(link.decode_from_worker(theirs.recv_multipart()[0]), link.Result)
    assert compute.ended(seconds(10))
    assert 0.9 * 4 * 2048 < model.most_at_once <= most_tokens_at_once(2048, COMMAND.threads, max_tokens=200)
    assert compute.tokens == 160 * 200


class Waits(StubModel):
    """Computes when it is told to."""

    def __init__(self) -> None:
        super().__init__(stub_order())
        self.began = threading.Event()
        self.may_go_on = threading.Event()

    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        self.began.set()
        assert self.may_go_on.wait(seconds(10))
        return super().forward(ids, lengths, prompt_lengths)


def test_withdrawn_request_ends_when_its_forward_pass_is_over(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    """Until then the worker is busy with it: a death now would be its doing and nobody else's."""
    ours, theirs = sockets
    model = Waits()
    compute = compute_with(model, ours)
    compute.start()
    compute.submit([work(1)])
    assert model.began.wait(seconds(10))
    compute.submit([work(2), work(3)])
    compute.cancel([1, 2])
    waiting = link.decode_from_worker(theirs.recv_multipart()[0])
    assert isinstance(waiting, link.Result)
    assert (waiting.serial, waiting.code) == (2, "cancelled")
    assert theirs.poll(0) == 0
    assert compute.busy
    model.may_go_on.set()
    compute.finish()
    ended = [link.decode_from_worker(theirs.recv_multipart()[0]) for _ in range(3)]
    assert [(one.serial, one.code) for one in ended if isinstance(one, link.Result)] == [(1, "cancelled"), (3, "")]
    assert isinstance(ended[-1], link.Drained)
    assert compute.ended(seconds(10))


class Prosaic(StubModel):
    """Notes the threads of each pass; the first pass over prose fails when told to."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__(stub_order())
        self.passes: list[tuple[int | None, int]] = []
        self._fails = fails

    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        self.passes.append((self.threads, len(lengths)))
        if self._fails and len(self.passes) == 2:
            raise ValueError("no prose today")
        return super().forward(ids, lengths, prompt_lengths)


def asking_for_8_bits(serial: int) -> Work:
    one = work(serial)
    one.request = replace(one.request, precision="int8")
    return one


def test_prose_for_ranges_is_computed_by_one_thread_and_counts_as_progress(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    """Guards against a worker that is taken to be stalled while it finds ranges, and against ranges of its own."""
    ours, theirs = sockets
    model = Prosaic()
    compute = compute_with(model, ours)
    compute.start()
    for serial in (1, 2):
        compute.submit([asking_for_8_bits(serial)])
        _, _, numbers, ranges = theirs.recv_multipart()
        assert (len(numbers), len(ranges)) == (8, 64)
    compute.finish()
    assert compute.ended(seconds(10))
    usual = model.passes[0][0]
    assert [threads for threads, _ in model.passes] == [usual, *[1] * (len(model.passes) - 2), usual]
    assert sum(texts for threads, texts in model.passes[1:-1]) == 64
    assert compute.progress == len(model.passes)


def test_prose_that_fails_ends_the_request_that_needed_it_and_no_other(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    ours, theirs = sockets
    compute = compute_with(Prosaic(fails=True), ours)
    compute.start()
    codes = []
    for one in (asking_for_8_bits(1), work(2), asking_for_8_bits(3)):
        compute.submit([one])
        result = link.decode_from_worker(theirs.recv_multipart()[0])
        assert isinstance(result, link.Result)
        codes.append(result.code)
    assert codes == ["internal", "", ""]
    compute.finish()
    assert compute.ended(seconds(10))


class Company(StubModel):
    """Remembers how many passes ran at once, and of what."""

    def __init__(self) -> None:
        super().__init__(stub_order())
        self.is_reentrant = True
        self.passes: list[tuple[int, int]] = []
        """Texts in a pass, and passes that ran beside it when it began."""
        self._running = 0
        self._lock = threading.Lock()

    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        with self._lock:
            self.passes.append((len(lengths), self._running))
            self._running += 1
        rows = super().forward(ids, lengths, prompt_lengths)
        with self._lock:
            self._running -= 1
        return rows


def test_suspected_texts_have_the_worker_to_themselves(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    ours, theirs = sockets
    model = Company()
    compute = compute_with(model, ours)
    suspected = replace(work(1, texts=8, length=20), alone=frozenset({1, 3, 5, 7}))
    compute.submit([suspected, work(2, texts=8, length=20)])
    compute.start()
    compute.finish()
    answered = [link.decode_from_worker(theirs.recv_multipart()[0]) for _ in range(3)]
    assert isinstance(answered[-1], link.Drained)
    assert compute.ended(seconds(10))
    assert model.passes[-4:] == [(1, 0)] * 4
    assert sum(texts for texts, _ in model.passes) == 16


def digests(*texts: str) -> list[bytes]:
    return [digest_of_text(text, "") for text in texts]


def test_text_that_was_convicted_while_it_waited_is_not_computed(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    ours, theirs = sockets
    screen, model = Screen(), Company()
    compute = Compute(COMMAND, Loaded(model, stub_order(), {}, seconds=0.0, peak_bytes=0), ours, screen)
    works = [work(serial, texts=2, length=20) for serial in (1, 2, 3)]
    for one, names in zip(works, (("good", "bad"), ("good", "bad"), ("bad", "bad")), strict=True):
        one.tokenized = replace(one.tokenized, digests=digests(*names))
    works[1].request = works[2].request = replace(works[1].request, partial=True)
    compute.submit(works)
    screen.convict([link.Convicted(digests("bad")[0], 60_000, "segfault")], now=time.monotonic())
    compute.start()
    compute.finish()
    answers: dict[int, tuple[object, list[bytes]]] = {}
    while len(answers) < 3:
        frames = theirs.recv_multipart()
        result = link.decode_from_worker(frames[0])
        assert isinstance(result, link.Result)
        answers[result.serial] = codec.decode_answer(frames[1]), frames[2:]
    assert isinstance(link.decode_from_worker(theirs.recv_multipart()[0]), link.Drained)
    assert compute.ended(seconds(10))
    refused, part, none = (answers[serial][0] for serial in (1, 2, 3))
    assert isinstance(refused, ErrorAnswer)
    assert (refused.code, refused.details["indices"], refused.details["death"]) == ("poisoned", [1], "segfault")
    assert "died of them (segfault)" in refused.message
    assert isinstance(part, Vectors)
    rows = np.frombuffer(answers[2][1][0], "<f4").reshape(2, 8)
    assert part.poisoned == (1,)
    assert np.isfinite(rows[0]).all()
    assert np.isnan(rows[1]).all()
    assert isinstance(none, Vectors)
    assert none.poisoned == (0, 1)
    assert sum(texts for texts, _ in model.passes) <= 2
