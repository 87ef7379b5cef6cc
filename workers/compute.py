"""The compute thread: tokenized requests in, vectors out. Packs the texts of all requests at hand into micro-batches.

Interactive requests go before bulk ones at every micro-batch, and each request is answered as soon as its last row is
there. A failed forward pass ends the requests in it, after those that shared it were tried again alone.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import zmq

from embeddaemon.errors import BadOutput, EmbedDaemonError, Expired, InternalError
from embeddaemon.protocol import control, link
from embeddaemon.protocol.messages import Embed, Lane
from embeddaemon.telemetry.logs import fields
from embeddaemon.workers import packing
from embeddaemon.workers.answers import Frames, Sender, error_frames, shape_rows, vectors_frames
from embeddaemon.workers.engines import Rows
from embeddaemon.workers.loading import Loaded, causes
from embeddaemon.workers.requests import Tokenized

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Work:
    """One request on its way through the model."""

    item: link.Item
    request: Embed
    tokenized: Tokenized
    deadline: float
    tokenize_us: int
    rows: Rows = field(init=False)
    missing: int = field(init=False)
    """Rows not computed yet."""
    compute_us: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    """One text of one request."""

    work: Work
    index: int


_MicroBatch = list[_Row]


class Compute:
    """Owns the compute socket and the model's forward pass. ``submit`` and ``finish`` are for the intake thread."""

    def __init__(self, command: control.ForkWorker, loaded: Loaded, connection: zmq.Socket[bytes]) -> None:
        self.progress = 0
        """Micro-batches finished. Written by the compute thread only."""
        self._threads = command.threads
        self._sender = Sender(command.worker, command.incarnation)
        self._model = loaded.model
        self._card = loaded.order.card
        self._token_budget = loaded.order.token_budget
        self._connection = connection
        self._arrivals: queue.SimpleQueue[list[Work] | None] = queue.SimpleQueue()
        self._submitted = 0
        self._ended = 0
        self._draining = False
        self._waiting: dict[Lane, deque[_MicroBatch]] = {lane: deque() for lane in Lane}
        self._thread = threading.Thread(target=self._live, name="compute", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, works: list[Work]) -> None:
        """Computes them together with whatever else is at hand."""
        self._submitted += len(works)
        self._arrivals.put(works)

    def finish(self) -> None:
        """Nothing more will come: compute the rest, say ``Drained``, end."""
        self._arrivals.put(None)

    def ended(self, timeout_seconds: float) -> bool:
        """Waits for the end after ``finish``."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    @property
    def busy(self) -> bool:
        return self._submitted != self._ended

    def _live(self) -> None:
        """A dead thread behind a live process must be impossible: whatever gets this far ends the process."""
        try:
            self._run()
        except BaseException:
            log.exception(fields("compute_thread_failed", worker=self._sender))
            os._exit(control.EXIT_BUG)

    def _run(self) -> None:
        # Here, and not where the process began: OpenMP keeps the number of threads per thread.
        self._model.use_threads(self._threads)
        while (micro_batch := self._next()) is not None:
            self._compute(micro_batch)
        self._connection.send(link.encode_from_worker(link.Drained(self._sender.worker, self._sender.incarnation)))
        self._connection.close()

    def _next(self) -> _MicroBatch | None:
        """The micro-batch to compute now, interactive ones first; None when there will be none any more."""
        while True:
            self._collect()
            for lane in (Lane.INTERACTIVE, Lane.BULK):
                if self._waiting[lane]:
                    return self._waiting[lane].popleft()
            if self._draining:
                return None

    def _collect(self) -> None:
        """Takes everything that has arrived; waits for something only when there is nothing to compute."""
        works: list[Work] = []
        wait = not self._draining and not any(self._waiting.values())
        while not (self._draining and self._arrivals.empty()):
            try:
                arrived = self._arrivals.get(block=wait)
            except queue.Empty:
                break
            wait = False
            if arrived is None:
                self._draining = True
            else:
                works += arrived
        for lane in Lane:
            self._plan([work for work in works if work.request.lane is lane], self._waiting[lane])

    def _plan(self, works: Sequence[Work], waiting: deque[_MicroBatch]) -> None:
        rows = []
        for work in works:
            work.missing = len(work.tokenized.ids)
            work.rows = np.empty((work.missing, self._card.dim), dtype=np.float32)
            rows += [_Row(work, index) for index in range(work.missing)]
        lengths = [len(row.work.tokenized.ids[row.index]) for row in rows]
        for planned in packing.plan(lengths, self._token_budget):
            waiting.append([rows[index] for index in planned.indices])

    def _compute(self, micro_batch: _MicroBatch) -> None:
        rows = self._drop_ended(micro_batch)
        if not rows:
            return
        start = time.perf_counter()
        try:
            vectors = self._forward(rows)
        except Exception as error:  # noqa: BLE001 - the boundary of the requests in this micro-batch
            self.progress += 1
            self._failed(rows, error)
            return
        self.progress += 1
        self._keep(rows, vectors, int((time.perf_counter() - start) * 1e6))

    def _drop_ended(self, micro_batch: _MicroBatch) -> _MicroBatch:
        """Expired requests are not computed."""
        now = time.monotonic()
        for work in _works(micro_batch):
            if not work.ended and now >= work.deadline:
                self._end(work, Expired("the deadline passed while the request waited in the worker for the model"))
        return [row for row in micro_batch if not row.work.ended]

    def _forward(self, rows: _MicroBatch) -> Rows:
        texts = [row.work.tokenized.ids[row.index] for row in rows]
        lengths = np.fromiter(map(len, texts), dtype=np.int32, count=len(texts))
        prompt_lengths = None
        if not self._card.include_prompt:
            prompts = (row.work.tokenized.prompt_tokens[row.index] for row in rows)
            prompt_lengths = np.fromiter(prompts, dtype=np.int32, count=len(rows))
        ids = texts[0] if len(texts) == 1 else np.concatenate(texts)
        return self._model.forward(ids, lengths, prompt_lengths)

    def _keep(self, rows: _MicroBatch, vectors: Rows, compute_us: int) -> None:
        places: dict[Work, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(row.work, []).append(place)
        for work, its in places.items():
            work.rows[[rows[place].index for place in its]] = vectors if len(places) == 1 else vectors[its]
            work.missing -= len(its)
            work.compute_us += compute_us
            if work.missing == 0:
                self._answer(work)

    def _answer(self, work: Work) -> None:
        try:
            rows = shape_rows(work.rows, work.request, self._card)
        except BadOutput as error:
            log.error(fields("bad_output", worker=self._sender, model=self._card.name))  # noqa: TRY400 - no surprise
            self._end(work, error)
            return
        frames = vectors_frames(
            self._sender,
            work.item,
            work.request,
            work.tokenized,
            rows,
            tokenize_us=work.tokenize_us,
            compute_us=work.compute_us,
        )
        self._send(work, frames)

    def _failed(self, rows: _MicroBatch, error: Exception) -> None:
        """One request's failure is not another's: those that shared the pass are tried again, each by itself."""
        works = _works(rows)
        if len(works) > 1:
            for work in reversed(works):
                self._waiting[work.request.lane].appendleft([row for row in rows if row.work is work])
            return
        log.error(fields("forward_failed", worker=self._sender, model=self._card.name, texts=len(rows)), exc_info=error)
        message = f"{self._card.name} failed to compute: {type(error).__name__}"
        self._end(
            works[0], error if isinstance(error, EmbedDaemonError) else InternalError(message, cause=causes(error))
        )

    def _end(self, work: Work, error: EmbedDaemonError) -> None:
        frames = error_frames(self._sender, work.item.serial, work.request.id, error, texts=work.tokenized.count)
        self._send(work, frames)

    def _send(self, work: Work, frames: Frames) -> None:
        assert not work.ended, "a request ends once"
        work.ended = True
        self._ended += 1
        self._connection.send_multipart(frames)


def _works(rows: Iterable[_Row]) -> list[Work]:
    """The requests of these rows, each once, in order."""
    return list(dict.fromkeys(row.work for row in rows))
