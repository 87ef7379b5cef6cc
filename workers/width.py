"""How many threads compute a micro-batch that is alone in its worker: learned from how long it takes each way. Pure.

More threads make one short text faster on a quiet machine and several times slower on a busy one, since each of the
hundred operators waits for the slowest thread. Nobody can tell beforehand, and it changes: so the way that was quicker
is taken, and the others are tried again now and then. Micro-batches beside others are computed by one thread each.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left

_WEIGHT = 0.2
"""Of the newest micro-batch in what one way is believed to take."""

_TRIAL = 4
"""Micro-batches in a row by which a way is judged. The first is not counted: it starts threads and makes kernels."""

_PATIENCE = 16
"""Choices after which a trial ends without a verdict: others join so often that the way must be slow."""

_SOONEST, _LATEST = 16, 256
"""Micro-batches until another way is tried again: twice as many each time that it is not the quicker one."""

_SIZES = (64, 512)
"""Tokens that divide micro-batches in sizes. Few, for a trial is one only when its passes follow each other."""


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
        assert threads in self._ways, "a micro-batch was computed as nobody chose: bug"
        self._size(tokens).learn(threads, seconds / max(1, tokens))

    def _size(self, tokens: int) -> _Size:
        return self._sizes.setdefault(bisect_left(_SIZES, tokens), _Size(self._ways))


class _Size:
    """Micro-batches of one size."""

    def __init__(self, ways: list[int]) -> None:
        self._ways = ways
        self._seconds: dict[int, float] = {}
        """Per token, of each way that was tried."""
        self._on_trial: int | None = ways[-1]
        self._trial: list[float] = []
        self._choices = 0
        """Of the way on trial."""
        self._until_trial = self._pause = _SOONEST
        self._trials = 0

    def choose(self) -> int:
        if self._on_trial is not None:
            self._choices += 1
            if self._choices <= _PATIENCE:
                return self._on_trial
            self._judge(self._on_trial, math.inf)
            return self.choose()
        self._until_trial -= 1
        if self._until_trial > 0:
            return self._quickest()
        others = [way for way in self._ways if way != self._quickest()]
        self._on_trial, self._choices = others[self._trials % len(others)], 0
        self._trials += 1
        return self._on_trial

    def learn(self, way: int, seconds_per_token: float) -> None:
        if way == self._on_trial:
            self._trial.append(seconds_per_token)
            if len(self._trial) == _TRIAL:
                self._judge(way, statistics.median(self._trial[1:]))
        elif math.isinf(self._seconds.get(way, 0.0)):
            self._seconds[way] = seconds_per_token
        elif way in self._seconds:
            self._seconds[way] += _WEIGHT * (seconds_per_token - self._seconds[way])

    def _judge(self, way: int, seconds_per_token: float) -> None:
        self._seconds[way] = seconds_per_token
        self._trial, self._choices = [], 0
        untried = [way for way in self._ways if way not in self._seconds]
        self._on_trial = untried[-1] if untried else None
        self._pause = _SOONEST if way == self._quickest() else min(2 * self._pause, _LATEST)
        self._until_trial = self._pause

    def _quickest(self) -> int:
        return min(self._seconds, key=lambda way: (self._seconds[way], way))
