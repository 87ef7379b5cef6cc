"""A daemon without models: a real ROUTER in a thread that speaks the protocol and does what a test tells it to.

``FakeDaemon`` answers like a daemon with one model; its ``behaviour`` decides per request what to do instead. What it
got is in ``requests``. A restart is ``stop()`` and a new FakeDaemon at the same endpoint.
"""

from __future__ import annotations

import hashlib
import queue
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import zmq

from embeddaemon.errors import EmbedDaemonError, InvalidInput, UnknownModel, UnknownTask
from embeddaemon.protocol import bodies, codec, error_codec
from embeddaemon.protocol.endpoints import socket_path
from embeddaemon.protocol.limits import VERSION, Limits
from embeddaemon.protocol.messages import (
    Body,
    Cancel,
    Document,
    Embed,
    Health,
    Hello,
    Load,
    Models,
    Reload,
    Request,
    Status,
    Texts,
    Timings,
    Tokenize,
    Tokens,
    Unload,
    Vectors,
)

DIM = 8
SLOW_SECONDS = 0.2
MAX_TOKENS = 16
TASKS = ["query", "passage"]


def vector_of(text: str, dim: int = DIM) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The vector that the fake model gives a text: another text, another vector."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(dim).astype("<f4")


@dataclass
class Answer:
    """Frames to send now."""

    frames: list[bytes]


class Silence:
    """Answer nothing, ever."""


@dataclass
class Hold:
    """Answer properly when ``release`` is called."""


@dataclass
class Fail:
    """Answer with an error."""

    error: EmbedDaemonError


Behaviour = Callable[[Request, Body | None], Answer | Silence | Hold | Fail | None]


def obliging(_request: Request, _body: Body | None) -> None:
    """Answer everything properly."""


def slow_about_models(request: Request, _body: Body | None) -> None:
    """Answers everything, the list of models after a while."""
    if isinstance(request, Models):
        threading.Event().wait(SLOW_SECONDS)


@dataclass
class FakeDaemon:
    """Runs from ``__enter__`` to ``stop``. ``requests`` may be read at any time, ``behaviour`` replaced at any time."""

    endpoint: str
    behaviour: Behaviour = obliging
    version: int = VERSION
    limits: Limits = field(default_factory=Limits)
    instance: str = field(default_factory=lambda: secrets.token_hex(8))
    requests: list[Request] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._held: list[tuple[bytes, Request, Body | None]] = []
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="fake daemon")
        self._bound = threading.Event()

    def __enter__(self) -> Self:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._rope = self._context.socket(zmq.PAIR)
        self._rope.bind(f"inproc://{id(self)}")
        self._thread.start()
        assert self._bound.wait(10), "the fake daemon could not bind"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Be gone, with everything that was not answered."""
        if self._thread.is_alive():
            self._command("stop")
            self._thread.join()
            self._rope.close(0)
            self._context.term()
            socket_path(self.endpoint).unlink(missing_ok=True)

    def release(self, *, backwards: bool = False) -> None:
        """Answer what was held, in its order or the other way round."""
        self._command("backwards" if backwards else "release")

    def _command(self, name: str) -> None:
        self._commands.put(name)
        self._rope.send(b"")

    @property
    def embeds(self) -> list[Embed]:
        return [request for request in self.requests if isinstance(request, Embed)]

    @property
    def withdrawn(self) -> set[int]:
        """Ids of the requests that clients have cancelled."""
        return {id_ for request in self.requests if isinstance(request, Cancel) for id_ in request.ids}

    def _serve(self) -> None:
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        router.bind(self.endpoint)
        bell = self._context.socket(zmq.PAIR)
        bell.connect(f"inproc://{id(self)}")
        self._bound.set()
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(bell, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if bell in ready:
                bell.recv()
                command = self._commands.get()
                if command == "stop":
                    break
                held, self._held = self._held[:: -1 if command == "backwards" else 1], []
                for who, request, body in held:
                    router.send_multipart([who, *self._answer(request, body)])
            if router in ready:
                self._take(router, router.recv_multipart())
        router.close(0)
        bell.close(0)

    def _take(self, router: zmq.Socket[bytes], message: list[bytes]) -> None:
        who, header, body_frame = message
        try:
            request = codec.decode_request(header)
            body = bodies.decode_body(body_frame, self.limits) if body_frame else None
        except EmbedDaemonError as error:
            router.send_multipart([who, codec.encode_answer(error_codec.error_answer(codec.request_id(header), error))])
            return
        self.requests.append(request)
        if body is not None:
            self.bodies.append(body)
        match self.behaviour(request, body):
            case Answer(frames):
                router.send_multipart([who, *frames])
            case Hold():
                self._held.append((who, request, body))
            case Fail(refusal):
                router.send_multipart([who, codec.encode_answer(error_codec.error_answer(request.id, refusal))])
            case Silence():
                pass
            case None:
                router.send_multipart([who, *self._answer(request, body)])

    def _answer(self, request: Request, body: Body | None) -> list[bytes]:
        try:
            return self.proper_answer(request, body)
        except EmbedDaemonError as error:
            return [codec.encode_answer(error_codec.error_answer(request.id, error))]

    def proper_answer(self, request: Request, body: Body | None) -> list[bytes]:
        """The frames of a good answer."""
        match request:
            case Embed():
                return _embedded(request, body)
            case Tokenize():
                return _tokenized(request, body)
            case Hello():
                return _document(request.id, self._hello())
            case Models():
                return _document(request.id, {"default_model": "fake", "models": [_MODEL]})
            case Status():
                return _document(request.id, {"instance": self.instance, "queued": 0})
            case Health():
                return _document(request.id, _health())
            case Reload():
                return _document(request.id, {"changed": False})
            case Load():
                return _document(request.id, {"model": request.model, "state": "ready", "seconds": 0.5})
            case Unload():
                return _document(request.id, {"model": request.model, "state": "available"})
            case Cancel():
                return _document(request.id, {"cancelled": 0})

    def _hello(self) -> dict[str, Any]:
        limits = self.limits
        return {
            "v": self.version,
            "server": "embeddaemon",
            "version": "9.9.9",
            "instance": self.instance,
            "pid": 1,
            "default_model": "fake",
            "limits": {
                "max_texts": limits.max_texts,
                "max_text_bytes": limits.max_text_bytes,
                "max_body_bytes": limits.max_body_bytes,
                "max_ids": limits.max_ids,
            },
            "timeout_ms": 30000,
        }


_MODEL = {
    "name": "fake",
    "source": "package:fake",
    "state": "ready",
    "family": "bert",
    "dim": DIM,
    "dimensions": [DIM, 4],
    "max_tokens": MAX_TOKENS,
    "pooling": ["mean"],
    "normalize": True,
    "tasks": TASKS,
    "default_task": None,
    "precision": "float32",
    "device": "cpu",
    "token_budget": 4096,
    "workers": 1,
    "error": None,
    "licence": "apache-2.0",
    "parameters": 22_713_216,
    "notes": ["it is not there"],
    "estimate_bytes": 1000,
}


def _health() -> dict[str, Any]:
    model = {"name": "fake", "state": "ready", "ready": True, "why": None, "deep": None}
    return {"live": True, "ready": True, "ok": True, "why": [], "draining": False, "models": [model]}


def _document(id_: int, document: dict[str, Any]) -> list[bytes]:
    return [codec.encode_answer(Document(id=id_)), codec.encode_document(document)]


def _checked(request: Embed | Tokenize, body: Body | None) -> list[str]:
    if request.model not in {None, "fake"}:
        raise UnknownModel(f"model {request.model!r} is not configured", details={"known": ["fake"]})
    if request.task is not None and request.task not in TASKS:
        raise UnknownTask(f"unknown task {request.task!r}", details={"known": TASKS})
    assert body is not None, "the client sent no body"
    texts = list(body.texts) if isinstance(body, Texts) else [" ".join(map(str, ids)) for ids in body.ids]
    for index, text in enumerate(texts):
        if not text and not request.lenient:
            raise InvalidInput(f"text {index} is empty", details={"index": index})
    return [(request.prompt or (f"{request.task}: " if request.task else "")) + text for text in texts]


def _embedded(request: Embed, body: Body | None) -> list[bytes]:
    texts = _checked(request, body)
    vectors = np.stack([vector_of(text) for text in texts])[:, : request.dimensions]
    if request.normalize:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths = [len(text.split()) for text in texts]
    header = Vectors(
        id=request.id,
        model="fake",
        count=len(texts),
        dim=vectors.shape[1],
        dtype="float32",
        tokens=sum(min(length, MAX_TOKENS) for length in lengths),
        truncated=tuple(index for index, length in enumerate(lengths) if length > MAX_TOKENS),
        timings=Timings(queue_us=1, tokenize_us=2, compute_us=3),
    )
    return [codec.encode_answer(header), vectors.astype("<f4").tobytes()]


def _tokenized(request: Tokenize, body: Body | None) -> list[bytes]:
    ids = [[len(word) for word in text.split()][:MAX_TOKENS] for text in _checked(request, body)]
    header = Tokens(id=request.id, model="fake", count=len(ids), tokens=sum(map(len, ids)))
    flat = np.array([one for text in ids for one in text], "<i4")
    lengths = np.array([len(text) for text in ids], "<i4")
    return [codec.encode_answer(header), flat.tobytes(), lengths.tobytes()]
