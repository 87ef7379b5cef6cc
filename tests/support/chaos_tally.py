"""What the clients of a storm count, and the plan that they are given; both travel as JSON between programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

LATE_SECONDS = 1.0
"""After its deadline every request has ended."""

_MOST_TOLD = 20

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one program of clients does."""

    endpoint: str
    seconds: float
    seed: int
    models: Mapping[str, int]
    """Name to weight: how often each is asked."""
    known: str
    """An .npz: ``texts``, and for each model its vectors."""
    least_cosine: float
    allowed: Sequence[str]
    """Codes with which a request may end that is not at fault itself."""
    threads: int = 1
    tasks: int = 2
    wires: int = 1
    timeouts: Sequence[float] = (8.0, 8.0, 8.0, 20.0, 3.0, 0.3)
    most_texts: int = 60
    think_seconds: float = 0.0
    """Longest pause of a client between two calls."""

    def as_argument(self) -> str:
        """For the command line of the program."""
        return json.dumps(asdict(self))


@dataclass(slots=True)
class Tally:
    """How the requests of some clients ended."""

    begun: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    texts: int = 0
    """Whose vectors were compared."""
    lost_connections: int = 0
    longest_overdue_seconds: float = 0.0
    """Of an end beyond its deadline; up to `LATE_SECONDS` is no fault."""
    slowest_document_seconds: float = 0.0
    """Of hello, models and status, which wait for no worker."""
    least_cosine: float = 1.0
    wrong: list[str] = field(default_factory=list)

    def complain(self, text: str) -> None:
        """Note what must not be; of many only the first ones."""
        if len(self.wrong) < _MOST_TOLD:
            self.wrong.append(text)

    def ended(self, how: str, overdue_seconds: float, what: str) -> None:
        """A request ended, so long after its deadline (before it: less than zero)."""
        self.endings[how] += 1
        self.longest_overdue_seconds = max(self.longest_overdue_seconds, overdue_seconds)
        if overdue_seconds > LATE_SECONDS:
            self.complain(f"{what} ended {overdue_seconds:.2f} s after its deadline with {how}")

    def merge(self, other: Tally) -> None:
        """Add what another one counted."""
        self.begun += other.begun
        self.endings += other.endings
        self.texts += other.texts
        self.lost_connections += other.lost_connections
        self.longest_overdue_seconds = max(self.longest_overdue_seconds, other.longest_overdue_seconds)
        self.slowest_document_seconds = max(self.slowest_document_seconds, other.slowest_document_seconds)
        self.least_cosine = min(self.least_cosine, other.least_cosine)
        self.wrong += other.wrong

    def as_text(self) -> str:
        """One line of JSON."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})


def tally_from(text: str) -> Tally:
    """What ``as_text`` wrote. Raises ValueError."""
    values = json.loads(text)
    return Tally(**values | {"endings": Counter(values["endings"])})


def plan_from(argument: str) -> Plan:
    """What ``as_argument`` wrote."""
    return Plan(**json.loads(argument))
