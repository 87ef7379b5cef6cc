"""A client with nothing clever in it: one DEALER, one frame list out, one in. For tests of the wire itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zmq

from embeddaemon.protocol import bodies, codec
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import (
    Answer,
    Document,
    Embed,
    ErrorAnswer,
    Hello,
    Load,
    Models,
    Request,
    Status,
    Unload,
    Vectors,
    Waiting,
)
from tests.support.waiting import seconds


class RawClient:
    """Sends and receives; a wait is never longer than ``timeout_seconds``."""

    def __init__(self, endpoint: str, *, timeout_seconds: float = 10.0) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(endpoint)
        self._timeout_seconds = timeout_seconds
        self._ids = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def next_id(self) -> int:
        return next(self._ids)

    def send_frames(self, *frames: bytes) -> None:
        self._socket.send_multipart(list(frames))

    def receive(self, timeout_seconds: float | None = None) -> tuple[Answer, list[bytes]]:
        """The next answer; signs of life are passed over."""
        limit = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        while True:
            assert self._socket.poll(int(seconds(limit) * 1000)), f"no answer within {seconds(limit):g} s"
            header, *frames = self._socket.recv_multipart()
            answer = codec.decode_answer(header)
            if not isinstance(answer, Waiting):
                return answer, frames

    def has_answer(self, timeout_seconds: float) -> bool:
        return bool(self._socket.poll(int(seconds(timeout_seconds) * 1000)))

    def send(self, request: Request, body: bytes = codec.EMPTY_BODY) -> None:
        self.send_frames(codec.encode_request(request), body)

    def call(self, request: Request, body: bytes = codec.EMPTY_BODY) -> tuple[Answer, list[bytes]]:
        self.send(request, body)
        return self.receive()

    def document(self, request: Request) -> dict[str, Any]:
        answer, frames = self.call(request)
        assert isinstance(answer, Document), answer
        return codec.decode_document(frames[0])

    def hello(self) -> dict[str, Any]:
        return self.document(Hello(id=self.next_id()))

    def status(self) -> dict[str, Any]:
        return self.document(Status(id=self.next_id()))

    def models(self) -> dict[str, Any]:
        return self.document(Models(id=self.next_id()))

    def load(self, model: str, *, deadline_ms: int = 10_000) -> Answer:
        return self.call(Load(id=self.next_id(), model=model, deadline_ms=deadline_ms))[0]

    def unload(self, model: str) -> Answer:
        return self.call(Unload(id=self.next_id(), model=model))[0]

    def ask(self, texts: Sequence[str], **options: Any) -> int:
        """Send an embed request; its id."""
        id_ = self.next_id()
        self.send(Embed(id=id_, **options), bodies.encode_texts(texts, Limits()))
        return id_

    def embed(self, texts: Sequence[str], **options: Any) -> npt.NDArray[np.float32]:
        self.ask(texts, **options)
        answer, frames = self.receive()
        assert isinstance(answer, Vectors), answer
        return np.frombuffer(frames[0], dtype="<f4").reshape(answer.count, answer.dim)

    def embed_error(self, texts: Sequence[str], **options: Any) -> ErrorAnswer:
        self.ask(texts, **options)
        answer, _ = self.receive()
        assert isinstance(answer, ErrorAnswer), answer
        return answer
