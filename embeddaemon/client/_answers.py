"""Answers to arrays: checks that the frames are what the header says. Raises ProtocolError; knows no connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embeddaemon.client._window import Answered
from embeddaemon.client.results import Embeddings, FloatArray, IdArray
from embeddaemon.errors import ProtocolError
from embeddaemon.protocol import codec
from embeddaemon.protocol.messages import Document, Timings, Tokens, Vectors
from embeddaemon.protocol.numbers import Numbers, read, written
from embeddaemon.protocol.precisions import PRECISIONS

_COPIED_BYTES = 64 * 1024
"""Smaller frames are copied: they lie unaligned in a receive buffer, and would keep all of it alive."""


@dataclass(frozen=True, slots=True)
class Taken:
    """An ``embed`` answer as it came."""

    header: Vectors
    numbers: Numbers
    """(count, columns of the precision); writable, and over the frame where it is large."""
    ranges: FloatArray | None


def vectors_of(answered: Answered) -> Taken:
    """The header and the arrays of an ``embed`` answer."""
    answer = answered.answer
    if not isinstance(answer, Vectors):
        raise ProtocolError(f"embed was answered with {type(answer).__name__}")
    precision = PRECISIONS.get(answer.dtype)
    if precision is None:
        raise ProtocolError(f"vectors of {answer.dtype} are not known to this client")
    if answer.count != answered.piece.count:
        raise ProtocolError(f"{answered.piece.count} texts were answered with {answer.count} vectors")
    columns = precision.columns(answer.dim)
    sizes = [answer.count * columns * np.dtype(precision.dtype).itemsize]
    numbers, *rest = _frames(answered, [*sizes, 2 * answer.dim * 4] if precision.has_ranges else sizes)
    ranges = _array(rest[0], "<f4").reshape(2, answer.dim) if rest else None
    return Taken(answer, _array(numbers, precision.dtype).reshape(answer.count, columns), ranges)


class Alike:
    """Makes the answers to the pieces of one call alike: of one precision, one length, and the same ranges."""

    def __init__(self) -> None:
        self.ranges: FloatArray | None = None
        """Of the first answer."""
        self._first: Vectors | None = None

    def take(self, answered: Answered) -> Taken:
        """The next answer. Where a worker on other hardware found other ranges, its numbers are made anew."""
        taken = vectors_of(answered)
        header = taken.header
        if self._first is None:
            self._first, self.ranges = header, taken.ranges
        if (header.dim, header.dtype) != (self._first.dim, self._first.dtype):
            raise ProtocolError(
                f"pieces of one call were answered with {self._first.dim} dimensions of {self._first.dtype} and "
                f"{header.dim} of {header.dtype}"
            )
        if self.ranges is None or taken.ranges is None or np.array_equal(self.ranges, taken.ranges):
            return taken
        precision = PRECISIONS[header.dtype]
        values = read(taken.numbers, precision, header.dim, taken.ranges)
        return replace(taken, numbers=written(values, precision, self.ranges), ranges=self.ranges)


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
OnRanges = Callable[[FloatArray], None]
"""Told the ranges (2, dim) of a call's numbers, once, before the first of them."""


class Assembler:
    """The answers of one ``embed`` call, in order, into one array that is allocated once."""

    def __init__(self, texts: int) -> None:
        self._texts = texts
        self._alike = Alike()
        self._vectors: Numbers | None = None
        self._header: Vectors | None = None
        self._done = 0
        self._tokens = 0
        self._truncated: list[int] = []
        self._poisoned: list[int] = []
        self._timings = Timings()
        self._began_at = float("inf")
        self._ended_at = 0.0

    @property
    def done(self) -> int:
        """Texts answered so far."""
        return self._done

    def take(self, answered: Answered) -> None:
        """Add the next answer."""
        taken = self._alike.take(answered)
        header, offset = taken.header, self._done
        if self._texts == header.count:
            self._vectors = taken.numbers
        else:
            if self._vectors is None:
                self._vectors = np.empty((self._texts, taken.numbers.shape[1]), taken.numbers.dtype)
            self._vectors[offset : offset + header.count] = taken.numbers
        self._done += header.count
        self._header = header
        self._tokens += header.tokens
        self._truncated += [offset + index for index in header.truncated]
        self._poisoned += [offset + index for index in header.poisoned]
        self._timings = _sum(self._timings, header.timings)
        self._began_at = min(self._began_at, answered.submitted_at)
        self._ended_at = max(self._ended_at, answered.answered_at)

    def embeddings(self, *, is_single: bool) -> Embeddings:
        """Everything together; (dim,) for a single string."""
        assert self._done == self._texts, "assembled before every piece was answered: bug"
        assert self._vectors is not None, "assembled without a piece: bug"
        assert self._header is not None, "assembled without a piece: bug"
        return Embeddings(
            vectors=self._vectors[0] if is_single else self._vectors,
            model=self._header.model,
            tokens=self._tokens,
            truncated=tuple(sorted(self._truncated)),
            poisoned=tuple(sorted(self._poisoned)),
            timings=self._timings,
            seconds=self._ended_at - self._began_at,
            precision=self._header.dtype,
            dimensions=self._header.dim,
            ranges=self._alike.ranges,
        )


def _sum(sum_so_far: Timings, piece: Timings) -> Timings:
    return Timings(
        queue_us=max(sum_so_far.queue_us, piece.queue_us),
        tokenize_us=sum_so_far.tokenize_us + piece.tokenize_us,
        compute_us=sum_so_far.compute_us + piece.compute_us,
        cached=sum_so_far.cached or piece.cached,
    )
