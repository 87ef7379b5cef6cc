"""How the numbers of an answer's vectors may lie in its frame, as sentence-transformers' precisions are called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Precision:
    """One way of writing down vectors, row after row."""

    name: str
    dtype: str
    """Of the frame, by numpy's name; little endian."""
    has_bits: bool = False
    """Eight dimensions in a number, the first in its highest bit: 1 where the value is above 0."""
    has_ranges: bool = False
    """Whether a second frame, float32 (2, dim), says which values the lowest and the highest number stand for."""

    def columns(self, dim: int) -> int:
        """Numbers in a row of so many dimensions."""
        return (dim + 7) // 8 if self.has_bits else dim


PRECISIONS = {
    each.name: each
    for each in (
        Precision("float32", "<f4"),
        Precision("float16", "<f2"),
        Precision("int8", "|i1", has_ranges=True),
        Precision("uint8", "|u1", has_ranges=True),
        Precision("binary", "|i1", has_bits=True),
        Precision("ubinary", "|u1", has_bits=True),
    )
}
