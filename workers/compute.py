"""The compute threads: tokenized requests in, vectors out, in micro-batches of the texts of all requests at hand.

Each thread is a *stream*: it computes one micro-batch after the other by itself, which beats many threads in one
forward pass, for nobody waits for anybody. Only a micro-batch that is alone may be given several threads (width.py).
Beside a device, which computes one micro-batch after the other, there are two, so that it never waits for the next.
A request is answered as soon as its last row is there, by whichever stream that is. A failed forward pass ends the
requests in it, after those that shared it were tried again alone. How a request ends is in outcomes.py.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import zmq

from embeddaemon.models.identity import weights_id
from embeddaemon.protocol import control
from embeddaemon.protocol.messages import Lane
from embeddaemon.telemetry.logs import fields
from embeddaemon.workers.answers import Sender
from embeddaemon.workers.engines import DeviceLost, Rows
from embeddaemon.workers.exhaustion import exit_out_of_memory, is_out_of_memory
from embeddaemon.workers.forward_pass import forward
from embeddaemon.workers.journal import Journal, record
from embeddaemon.workers.loading import Loaded
from embeddaemon.workers.outcomes import Outcomes
from embeddaemon.workers.screening import Screen
from embeddaemon.workers.turns import Turns
from embeddaemon.workers.waiting import STREAMS_OF_A_DEVICE, MicroBatch, Row, Waiting, Work
from embeddaemon.workers.width import Width

log = logging.getLogger(__name__)

MOST_RECORDS = 1 << 16
"""Room in a slot of the journal: more texts than a request may have, unless its limits were raised far. What is not
used takes no memory."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """One micro-batch that a stream computes."""

    stream: int
    rows: MicroBatch
    tokens: int
    threads: int
    alone_as: int
    """The how manieth micro-batch of the worker it is, if no other ran when it began; else 0."""


class Compute:
    """Owns the model's forward pass. Public methods are for the intake thread."""

    def __init__(
        self,
        command: control.ForkWorker,
        loaded: Loaded,
        connection: zmq.Socket[bytes],
        screen: Screen | None = None,
        journal: int | None = None,
    ) -> None:
        """``screen`` says what may not be computed; ``journal`` is a descriptor for it, closed in here."""
        self.progress = 0
        """Micro-batches finished."""
        self.tokens = 0
        """Computed."""
        weights = weights_id(loaded.order.card, loaded.facts)
        self._sender = Sender(command.worker, command.incarnation, weights)
        self._model = loaded.model
        self._card = loaded.order.card
        self._outcomes = Outcomes(self._sender, loaded, connection, self._progressed)
        is_on_device = loaded.model.facts.device != "cpu"
        self._most_threads = 1 if is_on_device else command.threads
        self._is_parallel = loaded.model.is_reentrant and self._most_threads > 1
        streams = self._most_threads if self._is_parallel else 1
        if is_on_device and loaded.model.is_reentrant:
            streams = STREAMS_OF_A_DEVICE
        self.journal = Journal(journal, slots=1 + streams, capacity=max(loaded.order.token_budget, MOST_RECORDS))
        """Its first slot is intake's."""
        self._screen = Screen() if screen is None else screen
        self._lock = self._outcomes.lock
        """Guards all that follows, too."""
        self._wakeups = [threading.Condition(self._lock) for _ in range(streams)]
        self._idle: set[int] = set()
        """Streams that wait and were not woken yet."""
        order = loaded.order
        # What is computed at once has a bound: waiting.most_tokens_at_once, and most_tokens_on_device.
        most_tokens = order.token_budget if is_on_device else min(order.token_budget, order.stream_tokens)
        self._waiting = Waiting(most_tokens, 1 if is_on_device else streams)
        self._turns = Turns(loaded.order.card.parameters)
        self._width = Width(self._most_threads)
        self._running = 0
        """Micro-batches that streams compute now."""
        self._begun = 0
        self._is_apart = False
        """What runs is a text that must have the worker to itself."""
        self._draining = False
        self._threads = [
            threading.Thread(target=self._live, args=[number], name=f"stream-{number}", daemon=True)
            for number in range(streams)
        ]
        self._alive = streams

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, works: list[Work]) -> None:
        """Computes them together with whatever else is at hand."""
        for work in works:
            work.expect(self._card.pooled_dim)
        with self._lock:
            self._outcomes.hold(works)
            self._wake(self._waiting.add(works))
        for work in works:
            if not work.tokenized.ids:  # every text of it is refused
                self._outcomes.answer(work, self._most_threads, None)

    def cancel(self, serials: Sequence[int]) -> None:
        """Ends requests that nobody waits for as cancelled; what is computed of them already is lost.

        One that is being computed ends when that is over: whoever asks what this worker holds must see it until then.
        """
        with self._lock:
            for work in self._outcomes.held(serials):
                work.withdrawn = True
                self._outcomes.end_withdrawn(work)

    def latest(self) -> tuple[int, int]:
        """Of the stream that is latest: for how many milliseconds it is at its turn, and how long it may be."""
        with self._lock:
            return self._turns.latest(time.monotonic())

    def finish(self) -> None:
        """Nothing more will come: compute the rest, say ``Drained``, end."""
        with self._lock:
            self._draining = True
            self._wake(len(self._threads))

    def ended(self, timeout_seconds: float) -> bool:
        """Waits for the end after ``finish``."""
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def busy(self) -> bool:
        return self._outcomes.any_held

    def _wake(self, streams: int) -> None:
        """So many idle streams; the first ones first, which have their threads and caches warm for what is alone."""
        for number in sorted(self._idle)[:streams]:
            self._idle.remove(number)
            self._wakeups[number].notify()

    def _live(self, number: int) -> None:
        """A dead thread behind a live process must be impossible: whatever gets this far ends the process."""
        try:
            self._run(number)
        except BaseException as error:
            if is_out_of_memory(error):
                exit_out_of_memory(self._sender, error)
            log.exception(fields("compute_thread_failed", worker=self._sender))
            os._exit(control.EXIT_BUG)

    def _run(self, number: int) -> None:
        threads = None
        while (turn := self._next(number)) is not None:
            if turn.threads != threads:
                # Here, and not where the process began: OpenMP keeps the number of threads per thread.
                self._model.use_threads(turn.threads)
                threads = turn.threads
            self._compute(turn)
            del turn  # while this stream waits, what was answered is held by nobody
        with self._lock:
            self._alive -= 1
            is_last = self._alive == 0
        if is_last:
            self._outcomes.close()

    def _next(self, number: int) -> _Turn | None:
        """The micro-batch to compute now, once there is one; None when there will be none any more."""
        with self._lock:
            while True:
                while (micro_batch := self._take()) is not None:
                    if rows := self._drop_refused(self._drop_ended(micro_batch)):
                        return self._begin(number, rows)
                # What runs may fail and come back in parts.
                if self._draining and self._running == 0:
                    return None
                self._idle.add(number)
                self._wakeups[number].wait()

    def _take(self) -> MicroBatch | None:
        """What is next; nothing while a text is computed that must have the worker to itself."""
        if self._is_apart:
            return None
        micro_batch = self._waiting.take()
        return self._waiting.take_alone() if micro_batch is None and self._running == 0 else micro_batch

    def _begin(self, stream: int, rows: MicroBatch) -> _Turn:
        tokens = sum(row.tokens for row in rows)
        is_alone = self._running == 0 and not self._waiting
        threads = self._most_threads
        if self._is_parallel:
            threads = self._width.choose(tokens) if is_alone else 1
        self._running += 1
        for work in _works(rows):
            work.running += 1
        self._begun += 1
        self._is_apart = rows[0].index in rows[0].work.alone
        self._turns.begin(stream, tokens, self._waiting.seconds(tokens), time.monotonic())
        return _Turn(stream, rows, tokens, threads, self._begun if is_alone else 0)

    def _drop_ended(self, micro_batch: MicroBatch) -> MicroBatch:
        """Expired requests are not computed, nor is what was cancelled or failed elsewhere."""
        now = time.monotonic()
        for work in _works(micro_batch):
            if not work.ended and now >= work.deadline:
                self._outcomes.expire(work)
        return [row for row in micro_batch if not row.work.ended and not row.work.withdrawn]

    def _drop_refused(self, rows: MicroBatch) -> MicroBatch:
        """Texts that were convicted since they were tokenized are not computed."""
        if not self._screen:
            return rows
        refused = self._screen.refused([row.digest for row in rows], time.monotonic())
        if not refused:
            return rows
        for place, refusal in refused.items():
            self._outcomes.refuse(rows[place], refusal, self._most_threads)
        return [row for place, row in enumerate(rows) if place not in refused and not row.work.ended]

    def _compute(self, turn: _Turn) -> None:
        start = time.perf_counter()
        self.journal.begin(1 + turn.stream, [record(row.work.item.serial, row.digest) for row in turn.rows])
        try:
            vectors = forward(self._model, self._card, turn.rows)
        except DeviceLost:
            raise  # nothing that this process still has to compute can succeed
        except Exception as error:  # the boundary of the requests in this micro-batch
            if is_out_of_memory(error):
                raise
            self._failed(turn.rows, error)
            self._finished(turn, None)
            return
        seconds = time.perf_counter() - start
        self._keep(turn, vectors, int(seconds * 1e6))
        self._finished(turn, seconds)

    def _finished(self, turn: _Turn, seconds: float | None) -> None:
        with self._lock:
            self.progress += 1
            if seconds is not None:
                self.tokens += turn.tokens
                if turn.threads == 1:
                    self._waiting.learn(turn.tokens, seconds)
                if turn.alone_as == self._begun:
                    self._width.learn(turn.tokens, turn.threads, seconds)
            self._running -= 1
            if self._is_apart:
                self._is_apart = False
                self._wake(len(self._threads))
            self._turns.end(turn.stream)
            self.journal.end(1 + turn.stream)
            for work in _works(turn.rows):
                work.running -= 1
                self._outcomes.end_withdrawn(work)
            if self._draining:
                self._wake(len(self._threads))

    def _keep(self, turn: _Turn, vectors: Rows, compute_us: int) -> None:
        rows = turn.rows
        places: dict[Work, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(row.work, []).append(place)
        for work, its in places.items():
            # No other stream writes to these rows.
            if len(its) == 1:
                work.rows[rows[its[0]].index] = vectors[its[0]]
            else:
                work.rows[[rows[place].index for place in its]] = vectors if len(places) == 1 else vectors[its]
            with self._lock:
                work.missing -= len(its)
                work.compute_us += compute_us
                is_complete = work.missing == 0 and not work.withdrawn
            if is_complete:
                self._outcomes.answer(work, turn.threads, turn.stream)

    def _progressed(self, stream: int | None) -> None:
        with self._lock:
            self.progress += 1
            if stream is not None:
                self._turns.restart(stream, time.monotonic())

    def _failed(self, rows: MicroBatch, error: Exception) -> None:
        """One request's failure is not another's: those that shared the pass are tried again, each by itself."""
        works = _works(rows)
        if len(works) > 1:
            with self._lock:
                for lane in Lane:
                    alone = [[row for row in rows if row.work is work] for work in works if work.request.lane is lane]
                    self._waiting.put_back(lane, alone)
                self._wake(len(works))
            return
        self._outcomes.fail(works[0], error, texts=len(rows))


def _works(rows: Iterable[Row]) -> list[Work]:
    """The requests of these rows, each once, in order."""
    return list(dict.fromkeys(row.work for row in rows))
