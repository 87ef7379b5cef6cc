"""How often a model key failed lately: after how long it is tried again, and when it is left alone for longer. Pure.

Single deaths cost nothing: the successor of a first one starts at once, those of more in a row after a back-off that
grows. A model that keeps dying between good answers never has many in a row, so what is within a window counts as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

from embeddaemon.config.settings import Settings

FREE_FAILURES = 1
"""Deaths after which the successor starts at once: a worker is cheap, and most deaths are single."""

FIRST_BACK_OFF_SECONDS = 0.5
LONGEST_BACK_OFF_SECONDS = 30.0

LONGEST_QUARANTINE_SECONDS = 3600.0
"""Each quarantine that follows another one lasts twice as long, up to an hour: somebody looks after it by then."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How many failures in how many seconds, and how long the quarantine after them lasts."""

    failures: int
    window_seconds: float
    quarantine_seconds: float


def limit_of(settings: Settings) -> Limit:
    """As it is configured."""
    return Limit(settings.restart_limit, settings.restart_window_seconds, settings.quarantine_seconds)


@dataclass(slots=True)
class Intensity:
    """Of one model key. Times are monotonic seconds."""

    quarantined_until: float = float("-inf")
    _failed: deque[tuple[float, int]] = field(default_factory=deque)
    """When, and of which child."""
    _quarantines: int = 0
    """One after the other."""

    def failed(self, child: int, now: float, limit: Limit) -> bool:
        """One more death or failed load; whether the model is in quarantine by it."""
        self._failed.append((now, child))
        while self._failed and self._failed[0][0] <= now - limit.window_seconds:
            self._failed.popleft()
        if len(self._failed) < limit.failures:
            return False
        self.quarantine(now, limit)
        return True

    def quarantine(self, now: float, limit: Limit) -> None:
        """Leave the model alone; longer if the last time is not long ago."""
        if now - self.quarantined_until > self._length(limit):
            self._quarantines = 0
        self.quarantined_until = now + self._length(limit)
        self._quarantines += 1
        self._failed.clear()

    def _length(self, limit: Limit) -> float:
        longest = max(LONGEST_QUARANTINE_SECONDS, limit.quarantine_seconds)
        return min(limit.quarantine_seconds * 2.0 ** min(self._quarantines, 16), longest)

    def forgive(self, children: Container[int]) -> int:
        """Something else was to blame for the deaths of these; how many were counted."""
        kept = deque(each for each in self._failed if each[1] not in children)
        forgiven = len(self._failed) - len(kept)
        self._failed = kept
        return forgiven

    def is_quarantined(self, now: float) -> bool:
        return now < self.quarantined_until

    def lift(self) -> None:
        """Somebody wants it tried now."""
        self.quarantined_until = float("-inf")
        self._failed.clear()
        self._quarantines = 0


def back_off_seconds(failures: int, random: float) -> float:
    """Doubling, within plus or minus a quarter so that models that fell together do not rise together.

    ``failures`` in a row beyond the free ones; ``random`` in [0, 1).
    """
    if failures <= 0:
        return 0.0
    return min(FIRST_BACK_OFF_SECONDS * 2.0 ** min(failures - 1, 16), LONGEST_BACK_OFF_SECONDS) * (0.75 + random / 2)
