"""A heap of points in time with what is due then. Pure: time is an argument, and nothing wakes anybody."""

from __future__ import annotations

import heapq
from collections.abc import Container

HOUSEKEEPING = 0
"""The key of the recurring look at everything; every other key is the serial of a request."""


class Timers:
    """Keys by when they are due. Keys are never taken out early: who pops one checks if it still means anything."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, key: int) -> None:
        heapq.heappush(self._heap, (when, key))

    def next_due(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[int]:
        """The keys that are due, earliest first."""
        due: list[int] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[1])
        return due

    def forget_all_but(self, keys: Container[int]) -> None:
        """Drop what means nothing any more, when it has become most of the heap."""
        self._heap = [entry for entry in self._heap if entry[1] == HOUSEKEEPING or entry[1] in keys]
        heapq.heapify(self._heap)
