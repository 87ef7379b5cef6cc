"""What ``embed`` says on standard error of texts that were cut or refused. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

OnPoisoned = Literal["error", "nan", "skip"]
"""What is done with texts that workers died of: fail, write a row that is no vector, or write nothing."""


@dataclass(slots=True)
class Cut:
    """The texts that were cut to the model's maximum: counted, since a list of them could grow with the input."""

    texts: int = 0
    first: int | None = None

    def add(self, index: int) -> None:
        """One more, in the order of the texts."""
        self.texts += 1
        if self.first is None:
            self.first = index

    def note(self) -> str | None:
        if not self.texts:
            return None
        longer = f"{count(self.texts, 'text')} longer than the model takes and cut, the first is text {self.first}"
        return f"note: {longer}; --no-truncate fails instead"


@dataclass(slots=True)
class LeftOut:
    """The texts that workers died of: all of them, since nobody else tells which of the rows are no vectors."""

    indices: list[int] = field(default_factory=list)
    """Ascending."""

    def add(self, index: int) -> None:
        """One more, in the order of the texts."""
        self.indices.append(index)

    def places(self, first: int) -> Sequence[int]:
        """Of those from text ``first`` on, counted from there."""
        return [index - first for index in self.indices[bisect_left(self.indices, first) :]]

    def note(self, lines_of: str | None, instead: str) -> str | None:
        """``lines_of`` as in ``where``; ``instead`` says what stands for a vector."""
        if not self.indices:
            return None
        refused = f"{count(len(self.indices), 'text')} that workers died of and none computes for a while"
        return f"note: {refused}, {instead}: {where(self.indices, lines_of)}"


def where(indices: Sequence[int], lines_of: str | None) -> str:
    """Texts as a person finds them: lines, which count from 1, of a file; else by their numbers, from 0."""
    if lines_of is None:
        return f"text{'s' if len(indices) > 1 else ''} {', '.join(_runs(indices))}"
    lines = ", ".join(_runs([index + 1 for index in indices]))
    return f"{lines_of}, line{'s' if len(indices) > 1 else ''} {lines}"


def count(number: int, noun: str) -> str:
    """As one says it."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _runs(numbers: Sequence[int]) -> Iterator[str]:
    """Three or more in a row as first to last."""
    start = 0
    for end in range(1, len(numbers) + 1):
        if end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
            continue
        run = numbers[start:end]
        yield from [f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run)
        start = end
