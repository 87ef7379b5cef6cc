"""Answers to arrays: checks that the frames are what the header says. Raises ProtocolError; knows no connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embeddaemon.client import _faults as faults
from embeddaemon.client._window import Answered, Span
from embeddaemon.client.results import Embeddings, FloatArray, IdArray
from embeddaemon.errors import ProtocolError
from embeddaemon.protocol import codec
from embeddaemon.protocol.messages import Document, Embed, Timings, Tokens, Vectors
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
    answer = _vectors_header(answered)
    precision = PRECISIONS.get(answer.dtype)
    if precision is None:
        raise ProtocolError(f"vectors of {answer.dtype} are not known to this client")
    if answer.count != answered.piece.count:
        raise ProtocolError(f"{answered.piece.count} texts were answered with {answer.count} vectors")
    request = answered.piece.request
    if isinstance(request, Embed) and answer.dtype != request.precision:
        raise ProtocolError(f"vectors of {request.precision} were asked for, {answer.dtype} was answered")
    columns = precision.columns(answer.dim)
    sizes = [answer.count * columns * np.dtype(precision.dtype).itemsize]
    numbers, *rest = _frames(answered, [*sizes, 2 * answer.dim * 4] if precision.has_ranges else sizes)
    ranges = _array(rest[0], "<f4").reshape(2, answer.dim) if rest else None
    return Taken(answer, _array(numbers, precision.dtype).reshape(answer.count, columns), ranges)


def _vectors_header(answered: Answered) -> Vectors:
    if not isinstance(answered.answer, Vectors):
        raise ProtocolError(f"embed was answered with {type(answered.answer).__name__}")
    return answered.answer


class Alike:
    """Makes the answers to the pieces of one call alike: of the same weights, one length, and the same ranges."""

    def __init__(self) -> None:
        self.ranges: FloatArray | None = None
        """Of the first answer."""
        self._first: Vectors | None = None
        self._given = 0

    def take(self, answered: Answered) -> Taken:
        """The next answer. Where a worker on other hardware found other ranges, its numbers are made anew.

        Raises ModelChanged where it is of other weights than those before it, which were given out.
        """
        taken = vectors_of(answered)
        header = taken.header
        if self._first is None:
            self._first, self.ranges = header, taken.ranges
        if source_of(header) != source_of(self._first):
            raise faults.changed_in_stream(header.model, self._given)
        self._given += header.count
        if self.ranges is None or taken.ranges is None or np.array_equal(self.ranges, taken.ranges):
            return taken
        precision = PRECISIONS[header.dtype]
        values = read(taken.numbers, precision, header.dim, taken.ranges)
        return replace(taken, numbers=written(values, precision, self.ranges), ranges=self.ranges)


@dataclass(frozen=True, slots=True)
class Source:
    """What vectors come from. Those of two sources are not to be compared, or do not even fit together."""

    model: str
    weights: str
    dim: int


def source_of(header: Vectors) -> Source:
    """Of an answer's vectors."""
    return Source(header.model, header.weights, header.dim)


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
OnRefused = Callable[[int], None]
"""Told the index of a text that workers died of: its row is no vector."""
OnRanges = Callable[[FloatArray], None]
"""Told the ranges (2, dim) of a call's numbers, once, before the first of them."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Whom ``embed_stream`` tells what its arrays do not say."""

    truncated: OnTruncated | None
    refused: OnRefused | None
    ranges: OnRanges | None


class Streamed:
    """The answers of one ``embed_stream`` call, one after the other."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners
        self._alike = Alike()
        self._given = 0
        """Texts."""

    def take(self, answered: Answered) -> Numbers:
        """The rows of the next answer; the listeners were told before. Raises ModelChanged as ``Alike`` does."""
        taken, listeners = self._alike.take(answered), self._listeners
        for listener, indices in (
            (listeners.truncated, taken.header.truncated),
            (listeners.refused, taken.header.poisoned),
        ):
            if listener is not None:
                for index in indices:
                    listener(self._given + index)
        if listeners.ranges is not None and self._given == 0 and self._alike.ranges is not None:
            listeners.ranges(self._alike.ranges)
        self._given += taken.header.count
        return taken.numbers


class _Gathering:
    """The answers of one call that are of one source, each in its place."""

    def __init__(self, texts: int) -> None:
        self.counts: dict[int, int] = {}
        """Texts of each answer, by the place of its first one."""
        self.first_answered_at = float("inf")
        self.vectors: Numbers | None = None
        self.header: Vectors | None = None
        self.tokens = 0
        self.truncated: list[int] = []
        self.poisoned: list[int] = []
        self.timings = Timings()
        self.alike = Alike()
        self._texts = texts

    def take(self, answered: Answered) -> None:
        taken = self.alike.take(answered)
        header, offset = taken.header, answered.piece.offset
        if self._texts == header.count:
            self.vectors = taken.numbers
        else:
            if self.vectors is None:
                self.vectors = np.empty((self._texts, taken.numbers.shape[1]), taken.numbers.dtype)
            self.vectors[offset : offset + header.count] = taken.numbers
        self.counts[offset] = header.count
        self.first_answered_at = min(self.first_answered_at, answered.answered_at)
        self.header = header
        self.tokens += header.tokens
        self.truncated += [offset + index for index in header.truncated]
        self.poisoned += [offset + index for index in header.poisoned]
        self.timings = _sum(self.timings, header.timings)


class Assembler:
    """The answers of one ``embed`` call into one array that is allocated once.

    A model may change while a call is answered. Then those of ``outdated`` are to be asked for again, once.
    """

    def __init__(self, texts: int) -> None:
        self._texts = texts
        self._gatherings: dict[Source, _Gathering] = {}
        self._counts: dict[int, int] = {}
        self._done = 0
        self._began_at = float("inf")
        self._ended_at = 0.0

    @property
    def done(self) -> int:
        """Texts answered so far, whatever they are answered of."""
        return self._done

    def take(self, answered: Answered) -> None:
        """Add the next answer."""
        header, offset = _vectors_header(answered), answered.piece.offset
        source = source_of(header)
        if source not in self._gatherings:
            self._gatherings[source] = _Gathering(self._texts)
        self._gatherings[source].take(answered)
        self._done += header.count - self._counts.get(offset, 0)
        self._counts[offset] = header.count
        self._began_at = min(self._began_at, answered.submitted_at)
        self._ended_at = max(self._ended_at, answered.answered_at)

    def outdated(self) -> list[Span]:
        """The answers of older weights than the newest, in order. They are forgotten."""
        newest = self._newest()
        self._gatherings = {source: one for source, one in self._gatherings.items() if one is newest}
        return [Span(offset, count) for offset, count in sorted(self._counts.items()) if offset not in newest.counts]

    def _newest(self) -> _Gathering:
        """Old workers go on for a moment beside the new ones: what was answered first tells which are the new."""
        assert self._gatherings, "assembled without a piece: bug"
        return max(reversed(self._gatherings.values()), key=lambda one: one.first_answered_at)

    def embeddings(self, *, is_single: bool) -> Embeddings:
        """Everything together; (dim,) for a single string. Raises ModelChanged when it changed again and again."""
        assert self._done == self._texts, "assembled before every piece was answered: bug"
        newest = self._newest()
        assert newest.vectors is not None, "gathered without an answer: bug"
        assert newest.header is not None, "gathered without an answer: bug"
        if newest.counts.keys() != self._counts.keys():
            raise faults.changed_again(newest.header.model)
        return Embeddings(
            vectors=newest.vectors[0] if is_single else newest.vectors,
            model=newest.header.model,
            weights=newest.header.weights,
            tokens=newest.tokens,
            truncated=tuple(sorted(newest.truncated)),
            poisoned=tuple(sorted(newest.poisoned)),
            timings=newest.timings,
            seconds=self._ended_at - self._began_at,
            precision=newest.header.dtype,
            dimensions=newest.header.dim,
            ranges=newest.alike.ranges,
        )


def _sum(sum_so_far: Timings, piece: Timings) -> Timings:
    return Timings(
        queue_us=max(sum_so_far.queue_us, piece.queue_us),
        tokenize_us=sum_so_far.tokenize_us + piece.tokenize_us,
        compute_us=sum_so_far.compute_us + piece.compute_us,
        cached=sum_so_far.cached or piece.cached,
    )
