"""The intake thread: receives dispatches, checks and tokenizes their requests, hands them to compute; heartbeats.

What is wrong with one request is answered here and disturbs no other. Waits on its socket and on nothing else.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from dataclasses import dataclass

import zmq

from embeddaemon.errors import EmbedDaemonError, Expired, InternalError, ProtocolError
from embeddaemon.protocol import bodies, codec, control, link, wire
from embeddaemon.protocol.messages import Lane, ModelRequest, Tokenize
from embeddaemon.telemetry.logs import fields
from embeddaemon.workers import measure
from embeddaemon.workers.answers import Sender, error_frames, tokens_frames
from embeddaemon.workers.compute import Compute
from embeddaemon.workers.engines import OnDevice, device_memory
from embeddaemon.workers.exhaustion import exit_out_of_memory, is_out_of_memory
from embeddaemon.workers.loading import Loaded, causes
from embeddaemon.workers.measure import Meter
from embeddaemon.workers.requests import Tokenized, read_request, tokenize
from embeddaemon.workers.screening import Screen
from embeddaemon.workers.waiting import Work
from embeddaemon.workers.watching import Watch

log = logging.getLogger(__name__)

_MEASURE_EVERY_SECONDS = 5.0
"""In full, which takes milliseconds; a heartbeat between follows what came and went since in microseconds."""


@dataclass(frozen=True, slots=True)
class _Arrived:
    """One item of a dispatch whose header was understood."""

    item: link.Item
    request: ModelRequest
    body: memoryview


class Intake:
    """Owns the intake socket. One thread, the process's main one."""

    def __init__(
        self,
        command: control.ForkWorker,
        loaded: Loaded,
        connection: zmq.Socket[bytes],
        compute: Compute,
        meter: Meter,
        *,
        screen: Screen,
    ) -> None:
        self._sender = Sender(command.worker, command.incarnation)
        self._model = loaded.model
        self._order = loaded.order
        self._connection = connection
        self._compute = compute
        self._heartbeat_seconds = command.heartbeat_seconds
        self._next_heartbeat = time.monotonic() + command.heartbeat_seconds
        self._meter = meter
        self._screen = screen
        self._next_measurement = time.monotonic() + _MEASURE_EVERY_SECONDS
        self._trims = 0
        self._progress_before = 0
        """At the last heartbeat."""
        self._lean_at = 0
        """What was computed when memory was last given back."""
        self._draining = False

    def run(self) -> None:
        """Until drained: everything held is answered and ``Drained`` is sent."""
        poller = zmq.Poller()
        poller.register(self._connection, zmq.POLLIN)
        while not self._draining:
            if poller.poll(math.ceil(self._until_heartbeat() * 1000)):
                self._receive()
            self._beat_when_due()
        self._compute.finish()
        while not self._compute.ended(self._until_heartbeat()):
            self._beat_when_due()

    def _until_heartbeat(self) -> float:
        return max(0.0, self._next_heartbeat - time.monotonic())

    def _beat_when_due(self) -> None:
        now = time.monotonic()
        if now < self._next_heartbeat:
            return
        self._beat(now)
        self._give_back_when_idle()

    def _beat(self, now: float) -> None:
        self._next_heartbeat = now + self._heartbeat_seconds
        if now >= self._next_measurement:
            self._next_measurement = now + _MEASURE_EVERY_SECONDS
            memory = self._meter.measure()
        else:
            memory = self._meter.estimate()
        device = device_memory(self._model)
        turn_ms, patience_ms = self._compute.latest()
        heartbeat = link.Heartbeat(
            worker=self._sender.worker,
            incarnation=self._sender.incarnation,
            progress=self._compute.progress,
            busy=self._compute.busy,
            private_bytes=memory.private_bytes + device.unified_bytes,
            peak_bytes=memory.peak_bytes + device.unified_bytes,
            device_bytes=device.own_bytes,
            trims=self._trims,
            tokens=self._compute.tokens,
            turn_ms=turn_ms,
            patience_ms=patience_ms,
        )
        self._connection.send(link.encode_from_worker(heartbeat))

    def _give_back_when_idle(self) -> None:
        """What a busy worker's malloc keeps is three quarters of all that the worker has for itself."""
        progress, before = self._compute.progress, self._progress_before
        self._progress_before = progress
        if progress == before != self._lean_at and not self._compute.busy:
            self._lean_at = progress
            measure.give_back()

    def _trim(self) -> None:
        """Everything back that is free in here, and at once what is left, measured."""
        gc.collect()
        measure.give_back()
        if isinstance(self._model, OnDevice):
            self._model.give_back()
        self._trims += 1
        self._next_measurement = now = time.monotonic()
        self._beat(now)

    def _receive(self) -> None:
        frames = wire.receive(self._connection)
        if frames is None:
            return
        message = link.decode_to_worker(frames[0].buffer)
        if message.incarnation != self._sender.incarnation:
            log.warning(fields("message_dropped", worker=self._sender, incarnation=message.incarnation))
        elif isinstance(message, link.Drain):
            self._draining = True
        elif isinstance(message, link.Cancel):
            self._compute.cancel(message.serials)
        elif isinstance(message, link.Convict):
            self._screen.convict(message.texts, time.monotonic())  # also of what is held
        elif isinstance(message, link.Trim):
            self._trim()
        else:
            self._take(message, [frame.buffer for frame in frames[1:]])

    def _take(self, dispatch: link.Dispatch, frames: list[memoryview]) -> None:
        """Interactive requests are with the model before the first bulk one is tokenized."""
        if len(frames) != 2 * len(dispatch.items):
            raise ProtocolError(f"a dispatch of {len(dispatch.items)} items came with {len(frames)} frames")
        arrival = time.monotonic()
        lanes: dict[Lane, list[_Arrived]] = {Lane.INTERACTIVE: [], Lane.BULK: []}
        for item, header, body in zip(dispatch.items, frames[::2], frames[1::2], strict=True):
            try:
                request = read_request(header)
            except EmbedDaemonError as error:
                self._refuse(item, codec.request_id(header), error)
                continue
            lanes[request.lane].append(_Arrived(item, request, body))
        for arrived in lanes.values():
            works = [work for one in arrived if (work := self._prepare(one, arrival, dispatch.alone)) is not None]
            if works:
                self._compute.submit(works)

    def _prepare(self, arrived: _Arrived, arrival: float, alone: tuple[bytes, ...] | None) -> Work | None:
        """Ready for the model; None when the request has been answered."""
        item, request = arrived.item, arrived.request
        deadline = arrival + item.expires_in_ms / 1000
        if time.monotonic() >= deadline:
            self._refuse(item, request.id, Expired("the deadline passed while the request waited in the worker"))
            return None
        start = time.perf_counter()
        watch = Watch(self._compute.journal, self._screen, item.serial, alone)
        try:
            watch.begin()
            body = bodies.decode_body(arrived.body, self._order.limits)
            tokenized = tokenize(request, body, self._model, self._order.card, self._beat_when_due, watch=watch)
        except EmbedDaemonError as error:
            self._refuse(item, request.id, error)
            return None
        except Exception as error:  # the boundary of a request
            if is_out_of_memory(error):
                exit_out_of_memory(self._sender, error)
            log.exception(fields("tokenizing_failed", worker=self._sender, model=item.model))
            self._refuse(item, request.id, InternalError(f"{item.model} failed to tokenize", cause=causes(error)))
            return None
        finally:
            watch.end()
        tokenize_us = int((time.perf_counter() - start) * 1e6)
        if isinstance(request, Tokenize):
            self._answer_tokens(item, request, tokenized, tokenize_us)
            return None
        return Work(item, request, tokenized, deadline, tokenize_us, watch.places_alone(tokenized.digests))

    def _answer_tokens(self, item: link.Item, request: Tokenize, tokenized: Tokenized, tokenize_us: int) -> None:
        self._connection.send_multipart(tokens_frames(self._sender, item, request.id, tokenized, tokenize_us))

    def _refuse(self, item: link.Item, client_id: int, error: EmbedDaemonError) -> None:
        self._connection.send_multipart(error_frames(self._sender, item.serial, client_id, error))
