"""A client that speaks the protocol by itself and trusts nobody: each request ends exactly once, or with its daemon."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from embeddaemon.protocol import bodies, codec, error_codec
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import (
    Answer,
    Cancel,
    Document,
    Embed,
    ErrorAnswer,
    Hello,
    Lane,
    Models,
    Request,
    Status,
    Vectors,
    Waiting,
)
from tests.support.chaos_asker import Ask, Asker

_WINDOW = 12
_CANCEL_SHARE, _DOCUMENT_SHARE = 0.03, 0.04
_DOCUMENT_TIMEOUT_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class _Open:
    request: Request
    ask: Ask | None
    begun: float


class _Connection:
    """One connection and no other: a lost one is not made again behind our back."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.reconnect_ivl = -1
        self.monitor = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED
        )
        self.socket.connect(endpoint)
        self.is_ready = self.is_lost = False

    def look(self) -> None:
        """What has happened to it."""
        while self.monitor.poll(0):
            event = int(recv_monitor_message(self.monitor)["event"])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.is_ready = True
            elif event == zmq.EVENT_DISCONNECTED or (event == zmq.EVENT_CLOSED and not self.is_ready):
                self.is_lost = True

    def send(self, request: Request, body: bytes) -> None:
        """Never waits: there is always room but where nobody is connected any more."""
        try:
            self.socket.send_multipart([codec.encode_request(request), body], zmq.NOBLOCK)
        except zmq.Again:
            self.is_lost = True

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close()


class WireClient:
    """Keeps a window of requests open; what a daemon took with it when it was killed has ended as ``lost``."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._tally = asker.tally
        self._ids = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._send_at = 0.0

    def run(self, is_over: Callable[[], bool]) -> None:
        """Until it is over and every request has ended."""
        with zmq.Context() as context:
            while not is_over():
                connection = _Connection(context, self._asker.plan.endpoint)
                try:
                    self._talk(connection, is_over)
                finally:
                    connection.close()

    def _talk(self, connection: _Connection, is_over: Callable[[], bool]) -> None:
        begun = time.monotonic()
        while not connection.is_lost and (self._open or not is_over()):
            connection.look()
            if not connection.is_ready:
                if time.monotonic() - begun > 1.0:
                    return  # nobody is there yet
                connection.monitor.poll(20)
                continue
            while self._may_send(connection) and not is_over():
                self._send(connection)
            self._receive(connection)
            self._complain_of_late_ones()
        if connection.is_lost and connection.is_ready:
            self._take_rest(connection)

    def _may_send(self, connection: _Connection) -> bool:
        return not connection.is_lost and len(self._open) < _WINDOW and time.monotonic() >= self._send_at

    def _take_rest(self, connection: _Connection) -> None:
        while connection.socket.poll(0):
            self._receive(connection)
        self._tally.lost_connections += 1
        self._tally.endings["lost"] += len(self._open)
        self._open.clear()

    def _send(self, connection: _Connection) -> None:
        id_, choose = next(self._ids), self._asker.choose
        chance, ask, body = choose.random(), None, codec.EMPTY_BODY
        request: Request
        if chance < _CANCEL_SHARE and self._open:
            self._cancel(connection, id_)
            return
        if chance < _CANCEL_SHARE + _DOCUMENT_SHARE:
            request = choose.choice((Hello, Models, Status))(id=id_)
        else:
            ask = self._asker.next()
            deadline_ms = int(ask.timeout * 1000)
            request = Embed(id=id_, model=ask.model, lane=choose.choice(tuple(Lane)), deadline_ms=deadline_ms)
            body = bodies.encode_texts(self._asker.texts_of(ask), Limits())
        self._tally.begun += ask is None
        self._open[id_] = _Open(request, ask, time.monotonic())
        connection.send(request, body)

    def _cancel(self, connection: _Connection, id_: int) -> None:
        """Withdraw one or two of ours; each ends as cancelled, unless its answer was under way."""
        choose = self._asker.choose
        ids = tuple(choose.sample(sorted(self._open), min(len(self._open), choose.choice((1, 2)))))
        request = Cancel(id=id_, ids=ids)
        self._tally.begun += 1
        self._open[id_] = _Open(request, None, time.monotonic())
        connection.send(request, codec.EMPTY_BODY)

    def _receive(self, connection: _Connection) -> None:
        if not connection.socket.poll(50):
            return
        header, *frames = connection.socket.recv_multipart()
        answer = codec.decode_answer(header)
        if isinstance(answer, Waiting):
            return
        pending = self._open.pop(answer.id, None)
        if pending is None:
            self._tally.complain(f"an answer to a request that has ended: {answer}")
            return
        self._check(pending, answer, frames)

    def _check(self, pending: _Open, answer: Answer, frames: list[bytes]) -> None:
        match answer, pending.ask:
            case Vectors(), Ask() as ask:
                got = np.frombuffer(frames[0], dtype="<f4").reshape(answer.count, answer.dim)
                self._asker.answered(ask, pending.begun, got)
            case ErrorAnswer(code="cancelled"), Ask():
                self._tally.endings["cancelled"] += 1
            case ErrorAnswer(), Ask() as ask:
                self._asker.failed(ask, pending.begun, error_codec.raised(answer))
                self._send_at = time.monotonic() + self._asker.pause()
            case Document(), None:
                took = time.monotonic() - pending.begun
                self._tally.slowest_document_seconds = max(self._tally.slowest_document_seconds, took)
                self._tally.ended("document", took - _DOCUMENT_TIMEOUT_SECONDS, type(pending.request).__name__)
            case _:
                self._tally.complain(f"{pending.request} ended with {answer}")

    def _complain_of_late_ones(self) -> None:
        """Those that have not ended at all are counted as never ending, long after the bound."""
        now = time.monotonic()
        for id_, pending in list(self._open.items()):
            timeout = _DOCUMENT_TIMEOUT_SECONDS if pending.ask is None else pending.ask.timeout
            if now - pending.begun > timeout + 10:
                del self._open[id_]
                self._tally.endings["never"] += 1
                self._tally.complain(f"has not ended 10 s after its deadline: {pending.request}")
