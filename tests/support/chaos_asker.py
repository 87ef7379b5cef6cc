"""What a client in a storm asks, and how it judges what comes back: vectors, errors, and the clock."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

import numpy as np

from embeddaemon.errors import EmbedDaemonError
from tests.support.chaos_tally import Plan, Tally, Vectors

_PULSE_SECONDS = 0.05
_THINK_AFTER_ERROR_SECONDS = 0.5


class Pulse(threading.Thread):
    """Notes when this program itself did not run: for that no daemon is to blame."""

    def __init__(self) -> None:
        super().__init__(name="pulse", daemon=True)
        self._missed: list[tuple[float, float]] = []
        self._wake = threading.Event()

    def run(self) -> None:
        while True:
            before = time.monotonic()
            self._wake.wait(_PULSE_SECONDS)
            late = time.monotonic() - before - _PULSE_SECONDS
            if late > _PULSE_SECONDS:
                self._missed.append((before, late))

    def missed_since(self, begun: float) -> float:
        """Seconds in which we stood still since then."""
        total = 0.0
        for before, late in reversed(self._missed):
            if before + late < begun:
                break
            total += late
        return total


@dataclass(frozen=True, slots=True)
class Ask:
    """One call: which of the known texts, for which model, how long it may take."""

    model: str
    picks: list[int]
    timeout: float


class Asker:
    """Chooses calls, and says of each how it ended."""

    def __init__(self, plan: Plan, seed: int, pulse: Pulse, kind: str) -> None:
        """``kind`` names the client in complaints."""
        self.plan = plan
        self.choose = random.Random(seed)
        self.tally = Tally()
        self._pulse = pulse
        self._kind = kind
        self._was_refused = False
        known = np.load(plan.known)
        self.texts: list[str] = known["texts"].tolist()
        self._vectors: dict[str, Vectors] = {name: known[name] for name in plan.models}

    def next(self) -> Ask:
        self.tally.begun += 1
        model = self.choose.choices(list(self.plan.models), weights=list(self.plan.models.values()))[0]
        count = self.choose.choice((1, 1, 1, 2, 8, self.choose.randrange(1, self.plan.most_texts)))
        picks = [self.choose.randrange(len(self.texts)) for _ in range(count)]
        return Ask(model, picks, self.choose.choice(tuple(self.plan.timeouts)))

    def texts_of(self, ask: Ask) -> list[str]:
        return [self.texts[pick] for pick in ask.picks]

    def answered(self, ask: Ask, begun: float, vectors: Vectors) -> None:
        """It ended with these."""
        self._ended("answered", ask, begun)
        wanted = self._vectors[ask.model][ask.picks]
        if vectors.shape != wanted.shape:
            self.tally.complain(f"{self._kind}: {ask.model}: {vectors.shape} for {wanted.shape}")
            return
        cosine = float((vectors * wanted).sum(axis=1).min())
        self.tally.texts += len(ask.picks)
        self.tally.least_cosine = min(self.tally.least_cosine, cosine)
        if not cosine >= self.plan.least_cosine:
            self.tally.complain(f"{self._kind}: {ask.model}: wrong vectors for {ask.picks[:5]}: cosine {cosine:.5f}")

    def failed(self, ask: Ask, begun: float, error: EmbedDaemonError) -> None:
        """It ended with this."""
        self._ended(error.code, ask, begun, error)
        if error.code not in self.plan.allowed:
            self.tally.complain(
                f"{self._kind}: {ask.model}: {len(ask.picks)} texts: {type(error).__name__} {error.code}: {error}"
            )

    def _ended(self, how: str, ask: Ask, begun: float, error: EmbedDaemonError | None = None) -> None:
        took = time.monotonic() - begun
        self._was_refused = error is not None
        what = f"{self._kind}: {ask.model}, {len(ask.picks)} texts, timeout {ask.timeout:g} s, {error}"
        self.tally.ended(how, took - ask.timeout - self._pulse.missed_since(begun), what)

    def pause(self) -> float:
        """Seconds until the next call; whoever was refused does not come back at once."""
        longest = _THINK_AFTER_ERROR_SECONDS if self._was_refused else self.plan.think_seconds
        return self.choose.uniform(0, longest)
