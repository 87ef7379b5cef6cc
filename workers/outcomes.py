"""How requests end in a worker: answered, refused, expired, cancelled or failed, once each. Any thread may come first.

What is computed, and when, is decided in compute.py. The frames are made in answers.py.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

import zmq

from embeddaemon.errors import BadOutput, Cancelled, EmbedDaemonError, Expired, InternalError, Invalid
from embeddaemon.protocol import link, wire
from embeddaemon.telemetry.logs import fields
from embeddaemon.workers.answers import Frames, Sender, error_frames, vectors_frames
from embeddaemon.workers.engines import DeviceLost, Rows
from embeddaemon.workers.exhaustion import is_out_of_memory
from embeddaemon.workers.loading import Loaded, causes
from embeddaemon.workers.output import Output, Outputs
from embeddaemon.workers.ranges import pooled_prose
from embeddaemon.workers.requests import is_partial
from embeddaemon.workers.screening import Refusal, poisoned
from embeddaemon.workers.waiting import Row, Work

log = logging.getLogger(__name__)


class Outcomes:
    """Owns the compute socket, and knows which requests have not ended. Any compute thread, and intake, may call."""

    def __init__(
        self,
        sender: Sender,
        loaded: Loaded,
        connection: zmq.Socket[bytes],
        progressed: Callable[[int | None], None],
    ) -> None:
        """``progressed`` is told of each step of what an answer may need first, with the stream that does it."""
        self.lock = threading.RLock()
        """Guards what is held, and the fields of every Work."""
        self._held: dict[int, Work] = {}
        self._sender = sender
        self._model = loaded.model
        self._card = loaded.order.card
        self._outputs = Outputs(loaded.model, loaded.order.card)
        self._progressed = progressed
        self._connection = connection
        self._sending = threading.Lock()
        """A socket is for one thread at a time."""

    def hold(self, works: Iterable[Work]) -> None:
        """They have begun. With ``lock``."""
        self._held.update((work.item.serial, work) for work in works)

    def held(self, serials: Iterable[int]) -> list[Work]:
        """Those of them that have not ended. With ``lock``."""
        return [self._held[serial] for serial in serials if serial in self._held]

    @property
    def any_held(self) -> bool:
        return bool(self._held)

    def answer(self, work: Work, threads: int, stream: int | None) -> None:
        """All its rows are there. ``threads`` and ``stream`` are those of the caller, if it is a stream."""
        try:
            output = self._outputs.of(work.rows, work.request, lambda: self._prose(threads, stream))
        except DeviceLost:
            raise
        except Exception as error:  # the boundary of a request
            if is_out_of_memory(error):
                raise
            self.fail(work, error, texts=work.tokenized.count)
            return
        self._answer_with(work, output)

    def refuse(self, row: Row, refusal: Refusal, threads: int) -> None:
        """The text of this row is not computed, nor the rest of a request that wants all or nothing. With ``lock``."""
        work = row.work
        work.refused[row.index] = refusal
        work.missing -= 1
        if not is_partial(work.request):
            if not work.ended:
                where = enumerate(work.tokenized.where)
                refusals = {index: work.refused[place] for index, place in where if place in work.refused}
                self.end(work, poisoned(self._card.name, refusals))
            return
        work.rows[row.index] = 1.0  # stands for no vector, and passes for one where vectors are checked
        if work.missing == 0 and not work.withdrawn:
            self.answer(work, threads, None)

    def end_withdrawn(self, work: Work) -> None:
        """Ends it as cancelled, if that was asked and no stream computes it. With ``lock``."""
        if work.withdrawn and not work.running and not work.ended:
            self.end(work, Cancelled("the client withdrew the request"))

    def expire(self, work: Work) -> None:
        self.end(work, Expired("the deadline passed while the request waited in the worker for the model"))

    def fail(self, work: Work, error: Exception, *, texts: int) -> None:
        """``error`` came of computing these ``texts`` of it."""
        self.end(work, self._shown(error, texts))

    def end(self, work: Work, error: EmbedDaemonError) -> None:
        """Without its result."""
        frames = error_frames(self._sender, work.item.serial, work.request.id, error, texts=work.tokenized.count)
        self._send(work, frames)

    def close(self) -> None:
        """Says that nothing more will come, and closes the socket."""
        drained = link.Drained(self._sender.worker, self._sender.incarnation)
        self._connection.send(link.encode_from_worker(drained))
        self._connection.close()

    def _prose(self, threads: int, stream: int | None) -> Rows:
        """By one thread, as in every worker: so all find the same ranges. ``threads`` are this stream's."""
        self._model.use_threads(1)
        try:
            return pooled_prose(self._model, self._card, lambda: self._progressed(stream))
        finally:
            self._model.use_threads(threads)

    def _answer_with(self, work: Work, output: Output) -> None:
        frames = vectors_frames(
            self._sender,
            work.item,
            work.request.id,
            work.tokenized,
            output,
            tokenize_us=work.tokenize_us,
            compute_us=work.compute_us,
            refused=work.refused,
        )
        self._send(work, frames)

    def _shown(self, error: Exception, texts: int) -> EmbedDaemonError:
        """What ended a request, logged, as the client gets it."""
        if isinstance(error, BadOutput):
            log.error(fields("bad_output", worker=self._sender, model=self._card.name))
            return error
        if isinstance(error, Invalid):
            return error
        log.error(fields("forward_failed", worker=self._sender, model=self._card.name, texts=texts), exc_info=error)
        message = f"{self._card.name} failed to compute: {type(error).__name__}"
        return error if isinstance(error, EmbedDaemonError) else InternalError(message, cause=causes(error))

    def _send(self, work: Work, frames: Frames) -> None:
        """Answers a request, unless it has ended: expired, cancelled or failed in another stream."""
        with self.lock:
            if work.ended:
                return
            work.ended = True
            del self._held[work.item.serial]
        with self._sending:
            wire.send(self._connection, frames)  # large ones are not copied once more
