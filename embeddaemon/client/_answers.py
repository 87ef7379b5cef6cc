"""Answers to arrays: checks that the frames are what the header says. Raises ProtocolError; knows no connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from embeddaemon.client._window import Answered
from embeddaemon.client.results import Embeddings, FloatArray, IdArray
from embeddaemon.errors import ProtocolError
from embeddaemon.protocol import codec
from embeddaemon.protocol.messages import Document, Timings, Tokens, Vectors

_COPIED_BYTES = 64 * 1024
"""Smaller frames are copied: they lie unaligned in a receive buffer, and would keep all of it alive."""


def vectors_of(answered: Answered) -> tuple[Vectors, FloatArray]:
    """The header and the (count, dim) array of an ``embed`` answer; writable, and over the frame where it is large."""
    answer = answered.answer
    if not isinstance(answer, Vectors):
        raise ProtocolError(f"embed was answered with {type(answer).__name__}")
    if answer.dtype != "float32":
        raise ProtocolError(f"vectors of {answer.dtype} are not known to this client")
    if answer.count != answered.piece.count:
        raise ProtocolError(f"{answered.piece.count} texts were answered with {answer.count} vectors")
    (frame,) = _frames(answered, [answer.count * answer.dim * 4])
    return answer, _array(frame, "<f4").reshape(answer.count, answer.dim)


def ids_of(answered: Answered) -> list[IdArray]:
    """The token ids of a ``tokenize`` answer, one array per text."""
    answer = answered.answer
    if not isinstance(answer, Tokens) or answer.count != answered.piece.count:
        raise ProtocolError("tokenize was answered with something else")
    ids, lengths = _frames(answered, [answer.tokens * 4, answer.count * 4])
    ends = np.cumsum(_array(lengths, "<i4"), dtype=np.int64)
    if answer.count and (ends[-1] != answer.tokens or np.any(np.diff(ends, prepend=0) < 0)):
        raise ProtocolError("the lengths of a tokenize answer do not add up to its tokens")
    return [np.ascontiguousarray(text) for text in np.split(_array(ids, "<i4"), ends[:-1])] if answer.count else []


def document_of(answered: Answered) -> dict[str, Any]:
    """The map of any other answer."""
    if not isinstance(answered.answer, Document) or len(answered.frames) != 1:
        raise ProtocolError(f"a document was asked for, {type(answered.answer).__name__} was answered")
    return codec.decode_document(answered.frames[0])


def _frames(answered: Answered, sizes: Sequence[int]) -> Sequence[memoryview]:
    found = [frame.nbytes for frame in answered.frames]
    if found != list(sizes):
        raise ProtocolError(f"an answer's frames have {found} bytes, its header says {list(sizes)}")
    return answered.frames


def _array(frame: memoryview, dtype: str) -> Any:
    array = np.frombuffer(frame, dtype)
    keeps_frame = frame.nbytes > _COPIED_BYTES and array.flags.aligned and array.flags.writeable
    return array if keeps_frame else array.copy()


OnTruncated = Callable[[int], None]
"""Told the index of a text that was cut to the model's maximum."""


class Assembler:
    """The answers of one ``embed`` call, in order, into one array that is allocated once."""

    def __init__(self, texts: int) -> None:
        self._texts = texts
        self._vectors: FloatArray | None = None
        self._model = ""
        self._done = 0
        self._tokens = 0
        self._truncated: list[int] = []
        self._timings = Timings()
        self._began_at = float("inf")
        self._ended_at = 0.0

    @property
    def done(self) -> int:
        """Texts answered so far."""
        return self._done

    def take(self, answered: Answered) -> None:
        """Add the next answer."""
        header, vectors = vectors_of(answered)
        offset = self._done
        if self._texts == header.count:
            self._vectors = vectors
        else:
            if self._vectors is None:
                self._vectors = np.empty((self._texts, header.dim), np.float32)
            if self._vectors.shape[1] != header.dim:
                raise ProtocolError(
                    f"pieces of one call were answered with {self._vectors.shape[1]} and {header.dim} dimensions"
                )
            self._vectors[offset : offset + header.count] = vectors
        self._done += header.count
        self._model = header.model
        self._tokens += header.tokens
        self._truncated += [offset + index for index in header.truncated]
        self._timings = _sum(self._timings, header.timings)
        self._began_at = min(self._began_at, answered.submitted_at)
        self._ended_at = max(self._ended_at, answered.answered_at)

    def embeddings(self, *, is_single: bool) -> Embeddings:
        """Everything together; (dim,) for a single string."""
        assert self._done == self._texts, "assembled before every piece was answered: bug"
        assert self._vectors is not None, "assembled without a piece: bug"
        return Embeddings(
            vectors=self._vectors[0] if is_single else self._vectors,
            model=self._model,
            tokens=self._tokens,
            truncated=tuple(sorted(self._truncated)),
            timings=self._timings,
            seconds=self._ended_at - self._began_at,
        )


def _sum(sum_so_far: Timings, piece: Timings) -> Timings:
    return Timings(
        queue_us=max(sum_so_far.queue_us, piece.queue_us),
        tokenize_us=sum_so_far.tokenize_us + piece.tokenize_us,
        compute_us=sum_so_far.compute_us + piece.compute_us,
        cached=sum_so_far.cached or piece.cached,
    )
