"""What a benchmark finds and what is asked of it: figures, demands, and the file they are kept in.

Needs nothing but the standard library, so that the environment that draws the pictures can read results.
"""

from __future__ import annotations

import enum
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

RESULTS = Path(__file__).parent / "results"
LAST = RESULTS / "last"
"""The newest result of every benchmark, one file each; `compare.py` puts them together. Not kept by git."""


class Form(enum.Enum):
    """How much is measured: enough to see a change within minutes, or enough to quote."""

    QUICK = "quick"
    FULL = "full"

    def choose(self, *, quick: int, full: int) -> int:
        """The one or the other, as a number of texts, rounds or seconds."""
        return quick if self is Form.QUICK else full


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One figure: a value for every repetition, in the order in which they were taken."""

    name: str
    unit: str
    values: tuple[float, ...]
    at: float | None = None
    """Place on the axis of a series: a number of tokens, clients or workers."""
    note: str = ""
    """What the reader must know: the batch size that was best, the accuracy, what went wrong."""

    @property
    def key(self) -> str:
        return self.name if self.at is None else f"{self.name}@{self.at:g}"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest."""
        return min(self.values), max(self.values)

    def __str__(self) -> str:
        low, high = self.spread
        several = f"  ({low:,.5g} to {high:,.5g}, {len(self.values)} times)" if len(self.values) > 1 else ""
        return f"{self.key:<44} {self.median:>12,.5g} {self.unit:<10}{several}  {self.note}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A number of the design that a figure has to reach, by itself or as a ratio to another figure."""

    row: str
    """What is asked, in the design's words: figures of one row stand together."""
    figure: str
    """Key of the measurement."""
    against: str | None = None
    """Key of the measurement that it is divided by; None: the figure counts by itself, in its own unit."""
    must: float | None
    """None: nothing is required, there is only where we want to be."""
    goal: float | None = None
    sense: Literal["at least", "at most"] = "at least"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Everything that one run of a benchmark found, and where."""

    benchmark: str
    form: str
    date: str
    commit: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    measurements: tuple[Measurement, ...]
    load_before: float
    """Load average of the last minute before the start: above about 0.5 somebody else was computing."""
    seconds: float = 0.0

    def write(self, path: Path) -> None:
        """As JSON, with the medians beside the values for readers without a calculator."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = asdict(self)
        for measurement, entry in zip(self.measurements, content["measurements"], strict=True):
            entry["median"] = measurement.median
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` has written."""
        content = json.loads(path.read_text(encoding="utf-8"))
        measurements = []
        for entry in content.pop("measurements"):
            del entry["median"]
            measurements.append(Measurement(**{**entry, "values": tuple(entry["values"])}))
        return cls(**content, measurements=tuple(measurements))
