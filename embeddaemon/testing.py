"""``MockClient``: what an application's own tests use instead of a daemon. No socket, no process, no torch.

It shares every method, check and error with ``Client``; only the answers are made up: unit vectors from a hash of the
text, the model, the task, the prompt and the dimensions. The same text gives the same vector in every run and on every
machine; related texts do not give related vectors.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Generator, Mapping
from types import TracebackType
from typing import Any, Self, assert_never

import numpy as np

from embeddaemon.client._connection import ClientClosed
from embeddaemon.client._faults import at_offset
from embeddaemon.client._requests import Pieces, wait_seconds
from embeddaemon.client._window import Answered, Piece
from embeddaemon.client.encoding import SentenceTransformerMethods
from embeddaemon.client.results import FloatArray
from embeddaemon.errors import (
    EmbedDaemonError,
    Expired,
    InvalidInput,
    TextTooLong,
    UnknownDimensions,
    UnknownModel,
    UnknownTask,
)
from embeddaemon.protocol import bodies, codec
from embeddaemon.protocol.limits import VERSION, Limits
from embeddaemon.protocol.messages import (
    Answer,
    Cancel,
    Document,
    Embed,
    Health,
    Hello,
    Load,
    Models,
    Reload,
    Status,
    Texts,
    Timings,
    Tokenize,
    Tokens,
    Unload,
    Vectors,
)
from embeddaemon.protocol.numbers import written
from embeddaemon.protocol.precisions import PRECISIONS

__all__ = ["MockClient", "mock_vector"]


def mock_vector(
    text: str, dimensions: int, *, model: str = "mock", task: str | None = None, prompt: str = ""
) -> FloatArray:
    """The unit vector, float32 (dimensions,), that ``MockClient`` gives a text."""
    key = "\0".join([model, task or "", prompt, str(dimensions), text]).encode("utf-8", "surrogatepass")
    seed = int.from_bytes(hashlib.blake2b(key, digest_size=16).digest(), "little")
    # Philox and Box-Muller by hand: numpy may change what standard_normal gives, and tests keep vectors in files.
    uniform = np.random.Philox(key=seed).random_raw(2 * dimensions).astype(np.float64) / 2.0**64
    radius = np.sqrt(-2 * np.log1p(-uniform[:dimensions] * (1 - 2.0**-53)))
    vector = radius * np.cos(2 * math.pi * uniform[dimensions:])
    unit: FloatArray = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


class MockClient(SentenceTransformerMethods):
    """A ``Client`` without a daemon.

        client = MockClient(models={"mock": 384})
        assert client.embed("a text").shape == (384,)

    ``models`` maps names to dimensions, the first is the default; ``tasks`` and ``max_tokens`` (words, plus two) are
    the same for all of them. ``endpoint`` and ``timeout`` are accepted and ignored, as code under test will give them.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        timeout: float = 30.0,
        *,
        models: Mapping[str, int] | None = None,
        tasks: tuple[str, ...] = ("query", "document"),
        max_tokens: int = 256,
    ) -> None:
        self.endpoint = endpoint or "mock"
        self.timeout = wait_seconds(timeout)
        self._models = dict(models or {"mock": 384})
        self._tasks = tasks
        self._max_tokens = max_tokens
        self._ready: set[str] = set()
        self._is_closed = False

    def close(self) -> None:
        """Refuse everything from here on, as a closed ``Client`` does."""
        self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _now(self) -> float:
        return time.monotonic()

    def _answers(
        self,
        pieces: Pieces,
        timeout: float | None,
        *,
        bounds_piece: bool = False,  # noqa: ARG002
    ) -> Generator[Answered, None, None]:
        if self._is_closed:
            raise ClientClosed
        if timeout is not None and wait_seconds(timeout) <= 0:
            raise Expired(f"no answer within {timeout:g} s")
        for piece in pieces(Limits()):
            try:
                answer, frames = self._answer(piece)
            except EmbedDaemonError as error:
                raise at_offset(error, piece.offset) from None
            yield Answered(piece, answer, [memoryview(frame) for frame in frames], 0.0, 0.0)

    # -- the daemon's part ---------------------------------------------------------------------------------------------

    def _answer(self, piece: Piece) -> tuple[Answer, list[bytes]]:
        request = piece.request
        match request:
            case Embed():
                return self._embedded(request, piece)
            case Tokenize():
                return self._tokenized(request, piece)
            case Hello():
                return _document(self._hello())
            case Models():
                return _document(
                    {"default_model": self._default, "models": [self._model(name) for name in self._models]}
                )
            case Status():
                return _document(self._status())
            case Health():
                return _document(self._health(request))
            case Reload():
                return _document({"changed": False})
            case Load():
                self._ready.add(self._known(request.model))
                return _document({"model": request.model, "state": "ready", "seconds": 0.0})
            case Unload():
                self._ready.discard(self._known(request.model))
                return _document({"model": request.model, "state": "available"})
            case Cancel():
                return _document({"cancelled": 0})
            case _:
                assert_never(request)

    @property
    def _default(self) -> str:
        return next(iter(self._models))

    def _known(self, name: str | None) -> str:
        chosen = name or self._default
        if chosen not in self._models:
            known = list(self._models)
            raise UnknownModel(
                f"model {chosen!r} is not configured, known are {', '.join(known)}", details={"known": known}
            )
        return chosen

    def _embedded(self, request: Embed, piece: Piece) -> tuple[Answer, list[bytes]]:
        model = self._known(request.model)
        self._ready.add(model)
        dim = self._models[model]
        if request.dimensions not in {None, dim}:
            raise UnknownDimensions(
                f"model {model} does not offer {request.dimensions} dimensions, only {dim}", details={"offered": [dim]}
            )
        precision = PRECISIONS[request.precision]
        tokens = self._tokens(request, piece)
        truncated = tuple(index for index, text in enumerate(tokens) if len(text) > self._max_tokens)
        vectors = [
            mock_vector(text, dim, model=model, task=request.task, prompt=request.prompt or "")
            for text in _texts(piece)
        ]
        header = Vectors(
            id=1,
            model=model,
            count=len(vectors),
            dim=dim,
            dtype=precision.name,
            tokens=sum(min(len(text), self._max_tokens) for text in tokens),
            truncated=truncated,
            timings=Timings(),
            weights=f"mock-{model}",
        )
        ranges = np.full((2, dim), 4 / math.sqrt(dim), np.float32) * np.array([[-1], [1]], np.float32)
        numbers = written(np.stack(vectors), precision, ranges).astype(precision.dtype)
        return header, [numbers.tobytes(), *([ranges.astype("<f4").tobytes()] if precision.has_ranges else [])]

    def _tokenized(self, request: Tokenize, piece: Piece) -> tuple[Answer, list[bytes]]:
        model = self._known(request.model)
        ids = [text[: self._max_tokens] for text in self._tokens(request, piece)]
        header = Tokens(id=1, model=model, count=len(ids), tokens=sum(map(len, ids)))
        flat = np.array([one for text in ids for one in text], "<i4")
        return header, [flat.tobytes(), np.array([len(text) for text in ids], "<i4").tobytes()]

    def _tokens(self, request: Embed | Tokenize, piece: Piece) -> list[list[int]]:
        """A made-up id per word between two special ones. Raises what the daemon raises."""
        if request.task is not None and request.task not in self._tasks:
            raise UnknownTask(
                f"unknown task {request.task!r}, known are {', '.join(self._tasks)}",
                details={"known": list(self._tasks)},
            )
        tokens = []
        for index, text in enumerate(_texts(piece)):
            if not request.lenient:
                _refuse_what_the_daemon_refuses(text, index)
            words = ((request.prompt or "") + text).split()
            ids = [101, *(hashlib.blake2b(word.encode()).digest()[0] + 1000 for word in words), 102]
            if len(ids) > self._max_tokens and not request.truncate:
                raise TextTooLong(
                    f"text {index} has {len(ids)} tokens, the limit is {self._max_tokens}",
                    details={"index": index, "tokens": len(ids), "limit": self._max_tokens},
                )
            tokens.append(ids)
        return tokens

    def _hello(self) -> dict[str, Any]:
        return {
            "v": VERSION,
            "server": "embeddaemon",
            "version": "mock",
            "instance": "mock",
            "pid": 0,
            "default_model": self._default,
            "limits": {},
            "timeout_ms": 30_000,
        }

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "source": "mock:" + name,
            "state": "ready" if name in self._ready else "available",
            "family": "mock",
            "dim": self._models[name],
            "whole_dim": self._models[name],
            "dimensions": [self._models[name]],
            "max_tokens": self._max_tokens,
            "pooling": ["mean"],
            "normalize": True,
            "tasks": list(self._tasks),
            "default_task": None,
            "precision": "float32",
            "device": "cpu",
            "workers": 1,
        }

    def _health(self, request: Health) -> dict[str, Any]:
        names = list(self._models) if request.model is None else [self._known(request.model)]
        models = []
        for name in names:
            is_loaded = name in self._ready or (request.deep and request.wake)
            deep = {"ok": True if is_loaded else None, "why": None if is_loaded else "it is not loaded", "seconds": 0.0}
            shown = {"name": name, "state": "ready" if is_loaded else "available", "loaded": is_loaded}
            models.append({**shown, "ready": True, "why": None, "deep": deep if request.deep else None})
        return {"live": True, "ready": True, "ok": True, "why": [], "draining": False, "models": models}

    def _status(self) -> dict[str, Any]:
        return {
            "instance": "mock",
            "version": "mock",
            "pid": 0,
            "uptime_seconds": 0.0,
            "draining": False,
            "queued": 0,
            "requests": {"answered": 0, "failed": 0, "expired": 0, "refused": 0},
            "models": [self._model(name) for name in self._models],
            "workers": [],
            "memory": {},
        }


def _document(document: Mapping[str, Any]) -> tuple[Answer, list[bytes]]:
    return Document(id=1), [codec.encode_document(document)]


def _texts(piece: Piece) -> list[str]:
    body = bodies.decode_body(piece.body, Limits())
    return list(body.texts) if isinstance(body, Texts) else [" ".join(map(str, ids)) for ids in body.ids]


def _refuse_what_the_daemon_refuses(text: str, index: int) -> None:
    if not text:
        raise InvalidInput(f"text {index} is empty", details={"index": index})
    if "\0" in text:
        raise InvalidInput(f"text {index} has a NUL character", details={"index": index})
