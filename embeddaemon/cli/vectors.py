"""Vectors as bytes: JSON lines, one JSON document, or NumPy's file format, all written piece by piece."""

from __future__ import annotations

from collections.abc import Collection
from typing import IO, Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from embeddaemon.protocol.precisions import PRECISIONS

FORMATS = ("json", "jsonl", "npy")

_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_HEADER_BYTES = 128
"""Magic, length and header together: a multiple of 64, with room for any number of rows."""

_NO_VECTOR = b"null"

Rows = NDArray[Any]
"""(texts, columns) of a precision's dtype."""


class VectorWriter(Protocol):
    """Takes pieces of rows (texts, columns) in order."""

    count: int
    """Rows so far, also those that are no vectors."""

    def take_ranges(self, ranges: Rows) -> None:
        """What the numbers stand for, (2, dim); told before the first piece, where there is such a thing."""

    def write(self, rows: Rows, gaps: Collection[int] = ()) -> None:
        """One more piece; the rows at ``gaps`` are no vectors."""

    def finish(self) -> None:
        """No more pieces: the rest of the file."""


def writer_for(
    name: str, file: IO[bytes] | BinaryIO, model: str | None, precision: str = "float32", *, skips: bool = False
) -> VectorWriter:
    """The writer of a format; ``npy`` needs a seekable file. ``skips``: no line of JSON for what is no vector."""
    match name:
        case "jsonl":
            return JsonLines(file, skips=skips)
        case "json":
            return JsonDocument(file, model, precision)
        case "npy":
            return Npy(file, PRECISIONS[precision].dtype)
        case _:
            raise AssertionError(f"format {name}: bug")


class JsonLines:
    """``{"index": 0, "embedding": [...]}`` per line; ``null`` for what is no vector, or no line."""

    def __init__(self, file: IO[bytes] | BinaryIO, *, skips: bool) -> None:
        self._file = file
        self._skips = skips
        self.count = 0

    def take_ranges(self, ranges: Rows) -> None:
        """A line has no place for them: they are in a file beside."""

    def write(self, rows: Rows, gaps: Collection[int] = ()) -> None:
        for numbers in _as_json(rows, gaps):
            if not (self._skips and numbers == _NO_VECTOR):
                self._file.write(b'{"index": %d, "embedding": %s}\n' % (self.count, numbers))
            self.count += 1
        self._file.flush()

    def finish(self) -> None:
        self._file.flush()


class JsonDocument:
    """``{"embeddings": [[...], ...], "model": ..., "count": ..., "dimensions": ..., "precision": ...}``.

    ``dimensions`` counts the numbers of a row. 8 bits have ``ranges`` too. ``null`` stands for what is no vector.
    """

    def __init__(self, file: IO[bytes] | BinaryIO, model: str | None, precision: str) -> None:
        self._file = file
        self._model = model
        self._precision = precision
        self._ranges: Rows | None = None
        self._dim = 0
        self.count = 0
        file.write(b'{"embeddings": [')

    def take_ranges(self, ranges: Rows) -> None:
        self._ranges = ranges

    def write(self, rows: Rows, gaps: Collection[int] = ()) -> None:
        self._dim = rows.shape[1]
        for numbers in _as_json(rows, gaps):
            self._file.write(b",\n" if self.count else b"\n")
            self._file.write(numbers)
            self.count += 1

    def finish(self) -> None:
        # A name of a model needs no escapes: letters, digits and a few signs.
        model = b"null" if self._model is None else b'"%s"' % self._model.encode()
        said = b'"model": %s, "count": %d, "dimensions": %d, "precision": "%s"' % (
            model,
            self.count,
            self._dim,
            self._precision.encode(),
        )
        if self._ranges is not None:
            said += b', "ranges": [%s, %s]' % tuple(_as_json(self._ranges))
        self._file.write(b"\n], %s}\n" % said)
        self._file.flush()


class Npy:
    """A matrix as ``numpy.load`` reads it; the number of rows is put into the header at the end."""

    def __init__(self, file: IO[bytes] | BinaryIO, dtype: str) -> None:
        self._file = file
        self._dtype = dtype
        self._start = file.tell()
        self._dim = 0
        self.count = 0
        file.write(_npy_header(0, 0, dtype))

    def take_ranges(self, ranges: Rows) -> None:
        """The file is the numbers and nothing else: they are in one beside."""

    def write(self, rows: Rows, gaps: Collection[int] = ()) -> None:  # noqa: ARG002 - their numbers say it
        self._dim = rows.shape[1]
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).data)
        self.count += rows.shape[0]

    def finish(self) -> None:
        self._file.seek(self._start)
        self._file.write(_npy_header(self.count, self._dim, self._dtype))
        self._file.seek(0, 2)
        self._file.flush()


def _npy_header(count: int, dim: int, dtype: str) -> bytes:
    room = _NPY_HEADER_BYTES - len(_NPY_MAGIC) - 2
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({count}, {dim}), }}"
    header = text.ljust(room - 1) + "\n"
    assert len(header) == room, "numbers of 64 bits fit into the room"
    return _NPY_MAGIC + room.to_bytes(2, "little") + header.encode("latin-1")


def _as_json(rows: Rows, gaps: Collection[int] = ()) -> list[bytes]:
    """Rows as JSON arrays: nine digits give every float32 back exactly. JSON has no NaN."""
    number = "%.9g" if rows.dtype.kind == "f" else "%d"
    form = "[" + ", ".join([number] * rows.shape[1]) + "]"
    return [_NO_VECTOR if place in gaps else (form % tuple(row)).encode() for place, row in enumerate(rows.tolist())]
