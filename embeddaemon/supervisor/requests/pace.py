"""How long a worker takes per byte of bodies: learned from what the supervisor itself sees, never configured. Pure.

Bytes stand for work because they are all that is known before anybody has tokenized. Time counts only while a worker
holds something, so idleness is no slowness.
"""

from __future__ import annotations

from dataclasses import dataclass

DISPATCH_SECONDS = 0.1
"""Work in one dispatch: enough to keep several streams in full micro-batches, soon through."""

START_SECONDS_PER_BYTE = 2.2e-13
"""Per parameter of the model, until something is measured: some 200 kB/s for the 23 million of MiniLM."""

_WINDOW_SECONDS = 0.05
"""Busy time in one measurement: dispatches that end together are measured together."""

_WEIGHT = 0.25
"""Of one measurement in what is believed. Ten times too slow or too fast is put right within ten measurements."""

_FARTHEST = 4.0
"""No measurement counts as farther off than by this factor: a first pass after loading, a machine that stood still."""

_FEWEST_BYTES, _MOST_BYTES = 1, 1 << 30


class Pace:
    """What one worker of a model key takes per byte: an average of logarithms, so that fast and slow weigh alike."""

    def __init__(self, seconds_per_byte: float = START_SECONDS_PER_BYTE * 23e6) -> None:
        self.seconds_per_byte = seconds_per_byte
        self._is_measured = False

    def expect(self, parameters: int) -> None:
        """A model of this size is about to be used; what was measured says more."""
        if not self._is_measured and parameters > 0:
            self.seconds_per_byte = START_SECONDS_PER_BYTE * parameters

    def learn(self, measured: Measurement) -> None:
        """One more measurement."""
        ratio = measured.seconds / measured.size / self.seconds_per_byte
        self.seconds_per_byte *= min(max(ratio, 1 / _FARTHEST), _FARTHEST) ** _WEIGHT
        self._is_measured = True

    def seconds(self, size: int) -> float:
        """How long bodies of so many bytes should take."""
        return size * self.seconds_per_byte

    @property
    def dispatch_bytes(self) -> int:
        """Bodies in one dispatch."""
        return int(min(max(DISPATCH_SECONDS / self.seconds_per_byte, _FEWEST_BYTES), _MOST_BYTES))


@dataclass(frozen=True, slots=True)
class Measurement:
    """Bytes that one worker computed in so many busy seconds."""

    size: int
    seconds: float


@dataclass(slots=True)
class Meter:
    """Adds up what one worker does, until it is enough for a measurement."""

    _size: int = 0
    _seconds: float = 0.0
    _since: float = 0.0
    """Until when its busy time is counted."""

    def through(self, size: int, sent_at: float, now: float) -> Measurement | None:
        """A dispatch that was sent at ``sent_at`` is through, ``size`` bytes of it computed."""
        self._size += size
        self._seconds += max(0.0, now - max(sent_at, self._since))
        self._since = now
        if self._seconds < _WINDOW_SECONDS:
            return None
        measured = Measurement(self._size, self._seconds) if self._size else None
        self._size, self._seconds = 0, 0.0
        return measured
