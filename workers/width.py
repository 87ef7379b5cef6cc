"""How many threads compute a micro-batch that is alone in its worker: learned from how long it takes each way. Pure.

More threads make one short text faster on a quiet machine and several times slower on a busy one, since each of the
hundred operators waits for the slowest thread. Nobody can tell beforehand, and it changes: so the way that was quicker
is taken, and the others are tried again now and then. Micro-batches beside others are computed by one thread each.
"""

from __future__ import annotations

_WEIGHT = 0.2
"""Of the newest micro-batch in what one way is believed to take."""

_FIRST_TRIES = 3
"""Of each way, before they are compared; the first is not counted, for it makes threads and kernels."""

_TRY_AGAIN = 64
"""Every so many micro-batches of one size a way that seemed slower is tried; if twice as slow, four times as rarely."""


class Width:
    """What is known about each way, for micro-batches of each size."""

    def __init__(self, threads: int) -> None:
        self._ways = [1 << power for power in range(threads.bit_length()) if 1 << power < threads] + [threads]
        self._sizes: dict[int, _Size] = {}

    def choose(self, tokens: int) -> int:
        """Threads for the next micro-batch of so many tokens that is alone."""
        return self._ways[0] if len(self._ways) == 1 else self._size(tokens).choose()

    def learn(self, tokens: int, threads: int, seconds: float) -> None:
        """One that was alone all the time took so long."""
        if threads in self._ways:
            self._size(tokens).learn(threads, seconds / max(1, tokens))

    def _size(self, tokens: int) -> _Size:
        return self._sizes.setdefault(tokens.bit_length(), _Size(self._ways))


class _Size:
    """Micro-batches of about the same number of tokens."""

    def __init__(self, ways: list[int]) -> None:
        self._tries = dict.fromkeys(ways, 0)
        self._seconds = dict.fromkeys(ways, 0.0)
        self._count = 0

    def choose(self) -> int:
        untried = [way for way, tries in self._tries.items() if tries < _FIRST_TRIES]
        if untried:
            return untried[-1]
        self._count += 1
        quickest = min(self._seconds, key=lambda way: self._seconds[way])
        others = [way for way in self._seconds if way != quickest]
        turn, is_due = divmod(self._count, _TRY_AGAIN)
        other = others[turn % len(others)]
        is_hopeless = self._seconds[other] > 2 * self._seconds[quickest]
        if is_due == 0 and (not is_hopeless or (turn // len(others)) % 4 == 0):
            return other
        return quickest

    def learn(self, threads: int, seconds_per_token: float) -> None:
        self._tries[threads] += 1
        known = self._seconds[threads]
        is_first = self._tries[threads] <= 2
        self._seconds[threads] = seconds_per_token if is_first else known + _WEIGHT * (seconds_per_token - known)
