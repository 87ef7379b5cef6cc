"""Some clients of a storm, a program: ``python -m benchmarks._storm_client PLAN``.

Each of the plan's clients has a thread and a real ``Client``. It asks one random thing after the other, compares every
vector with the known one, and notes how each request ended and when. One line of JSON goes to stdout at the end.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embeddaemon import Client
from embeddaemon.errors import EmbedDaemonError

LATE_SECONDS = 2.0
"""So long after its deadline every request has ended."""
LEAST_COSINE = 0.999
"""With the vector that a daemon at rest gave for the same text."""
TYPED = frozenset(
    {"expired", "busy", "worker_crashed", "backing_off", "no_headroom", "load_failed", "draining", "poisoned"}
)
"""What a request that is not at fault itself may end with while processes die and models come and go."""
NUMBERS = ("needed_bytes", "available_bytes", "limit_bytes")
"""What whoever got no memory is told."""

_SIZES = ((1, "interactive"),) * 6 + ((6, "interactive"), (20, "interactive"), (60, "bulk"), (150, "bulk"))
_MOST_COMPLAINTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a program of clients is told, as JSON."""

    endpoint: str
    seconds: float
    seed: int
    clients: int
    weights: Mapping[str, float]
    """By model."""
    timeouts: Sequence[float]
    """Seconds; one is chosen for each request."""
    known: str
    """The file with ``texts`` and, by model, their vectors."""

    def as_argument(self) -> str:
        return json.dumps(asdict(self))


@dataclass(slots=True)
class Tally:
    """How requests ended."""

    endings: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    """Answered, by model."""
    waits: dict[str, list[float]] = field(default_factory=dict)
    """From question to answer, seconds, by model: answered ones only."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """By model: expired, refused or failed."""
    expired_for: Counter[str] = field(default_factory=Counter)
    """What expired requests had waited for."""
    wrong: list[str] = field(default_factory=list)
    without_numbers: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    starved: list[str] = field(default_factory=list)
    """Got no memory within the longest of the deadlines."""
    least_cosine: float = 1.0

    def as_text(self) -> str:
        """JSON; ``tally_from`` reads it."""
        return json.dumps({one.name: getattr(self, one.name) for one in fields(self)})

    def merge(self, other: Tally) -> None:
        """Count what the other has counted."""
        for mine, theirs in (
            (self.endings, other.endings),
            (self.texts, other.texts),
            (self.unanswered, other.unanswered),
            (self.expired_for, other.expired_for),
        ):
            mine.update(theirs)
        for model, waits in other.waits.items():
            self.waits.setdefault(model, []).extend(waits)
        self.wrong += other.wrong
        self.without_numbers += other.without_numbers
        self.late += other.late
        self.starved += other.starved
        self.least_cosine = min(self.least_cosine, other.least_cosine)


def tally_from(text: str) -> Tally:
    """What a program of clients printed."""
    values: dict[str, Any] = json.loads(text)
    for counter in ("endings", "texts", "unanswered", "expired_for"):
        values[counter] = Counter(values[counter])
    return Tally(**values)


@dataclass(frozen=True, slots=True)
class Known:
    """Texts and, by model, the vectors that a daemon at rest gave for them: (texts, dim), unit length."""

    texts: Sequence[str]
    vectors: Mapping[str, npt.NDArray[np.float32]]

    def write(self, path: Path) -> None:
        arrays: dict[str, npt.NDArray[Any]] = {"texts": np.array(self.texts)}
        arrays.update({f"of {model}": vectors for model, vectors in self.vectors.items()})
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy types its own options among the names


def read_known(path: Path) -> Known:
    """What ``Known.write`` has written."""
    with np.load(path) as arrays:
        vectors = {name.removeprefix("of "): arrays[name] for name in arrays.files if name.startswith("of ")}
        return Known(arrays["texts"].tolist(), vectors)


class StormClient:
    """One after the other, until the time is up."""

    def __init__(self, plan: Plan, seed: int, known: Known) -> None:
        self._plan = plan
        self._choose = random.Random(seed)
        self._known = known
        self._models = list(plan.weights)
        self._weights = list(plan.weights.values())
        self.tally = Tally()

    def run(self, until: float) -> None:
        """Until then, monotonic seconds."""
        with Client(self._plan.endpoint) as client:
            while time.monotonic() < until:
                self._ask(client)

    def _ask(self, client: Client) -> None:
        size, lane = self._choose.choice(_SIZES)
        model = self._choose.choices(self._models, self._weights)[0]
        timeout = self._choose.choice(self._plan.timeouts)
        picks = [self._choose.randrange(len(self._known.texts)) for _ in range(size)]
        asked_at = time.monotonic()
        try:
            vectors = client.embed([self._known.texts[pick] for pick in picks], model=model, lane=lane, timeout=timeout)
        except EmbedDaemonError as error:
            self._note_error(error, model, timeout)
        else:
            self.tally.endings["answered"] += 1
            self.tally.texts[model] += size
            self.tally.waits.setdefault(model, []).append(time.monotonic() - asked_at)
            self._compare(vectors, model, picks)
        took = time.monotonic() - asked_at
        if took > timeout + LATE_SECONDS:
            self.tally.late.append(f"{size} texts for {model} ended after {took:.1f} s, deadline {timeout} s")

    def _note_error(self, error: EmbedDaemonError, model: str, timeout: float) -> None:
        self.tally.endings[error.code] += 1
        self.tally.unanswered[model] += 1
        if error.code not in TYPED:
            _complain(self.tally.wrong, f"{model}: {error.code}: {error}")
        if error.code == "expired":
            self.tally.expired_for[str(error.details.get("waited_for", "unknown"))] += 1
            if timeout == max(self._plan.timeouts) and error.details.get("waited_for") in ("memory", "load"):
                _complain(self.tally.starved, f"{model}: {error}")
        is_for_memory = error.code == "no_headroom" or error.details.get("waited_for") == "memory"
        if is_for_memory and not all(isinstance(error.details.get(key), int) for key in NUMBERS):
            _complain(self.tally.without_numbers, f"{model}: {error.code}: {error}: {error.details}")

    def _compare(self, vectors: npt.NDArray[np.float32], model: str, picks: Sequence[int]) -> None:
        wanted = self._known.vectors[model][picks]
        if vectors.shape != wanted.shape:
            _complain(self.tally.wrong, f"{model}: {vectors.shape} instead of {wanted.shape}")
            return
        least = float((vectors * wanted).sum(axis=1).min())
        self.tally.least_cosine = min(self.tally.least_cosine, least)
        if not least >= LEAST_COSINE:
            _complain(self.tally.wrong, f"{model}: a vector of cosine {least:.6f} with the right one")


def _complain(complaints: list[str], text: str) -> None:
    if len(complaints) < _MOST_COMPLAINTS:
        complaints.append(text[:500])


def main(argument: str) -> Tally:
    """Run the clients of a plan; what all of them found."""
    plan = Plan(**json.loads(argument))
    known = read_known(Path(plan.known))
    until = time.monotonic() + plan.seconds
    clients = [StormClient(plan, plan.seed * 1000 + number, known) for number in range(plan.clients)]
    threads = [threading.Thread(target=client.run, args=(until,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Tally()
    for client in clients:
        total.merge(client.tally)
    return total


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1]).as_text())
