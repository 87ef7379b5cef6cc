"""What is known of a loaded model's files: if others lie there now, and how far loading those has come. Pure.

What follows from it is in reload.py; the files themselves are looked at by file_looks.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from embeddaemon.errors import EmbedDaemonError
from embeddaemon.models.card import ModelCard
from embeddaemon.models.spec import ModelSpec


@dataclass(slots=True)
class Watch:
    """Of one model."""

    looked_at: float = -math.inf
    is_looking: bool = False
    """A look is under way. On a network folder it may be for ever; then none other is begun."""
    seen: str | None = None
    """The marks that the last look found, when they were not those that are loaded."""
    tried: str | None = None
    """The marks of files that were read, or are being read, for a successor: once."""
    is_reading: bool = False
    card: ModelCard | None = None
    """Of the files that are to be loaded, as soon as there is room beside what serves."""
    successor: int | None = None
    """The child that loads them: a template, or a worker that loads for itself."""
    leaving: set[int] = field(default_factory=set)
    """Children that have loaded the files of before: they serve until a worker of the successor's does."""
    error: EmbedDaemonError | None = None
    """Why the files that lie there are not loaded."""
    spec: ModelSpec | None = None
    """What the model is configured to be by now, while what serves it was made for what it was."""
    fetcher: int | None = None
    """The child that brings what is to be loaded from the hub."""
    folder: str | None = None
    """Where it was brought to."""
    is_ordered: bool = False
    """A successor was asked for, whatever the files are, and has not taken over."""

    @property
    def is_at_work(self) -> bool:
        """Whether a successor is being fetched or read, waits, or loads."""
        return self.is_reading or any(each is not None for each in (self.fetcher, self.card, self.successor))

    def is_due(self, now: float, interval_seconds: float) -> bool:
        """Whether it is time for a look."""
        return not self.is_looking and not self.is_at_work and now - self.looked_at >= interval_seconds

    def notices(self, loaded: str, marks: str) -> bool:
        """Whether files with these marks are to be read: others than those that are loaded, still, not tried yet."""
        if marks == loaded:
            if self.spec is None:  # else it is not the files that are wrong
                self.forget()
            return False
        is_still, self.seen = marks == self.seen, marks
        return is_still and marks != self.tried

    def forget(self) -> None:
        """What is loaded is what lies there."""
        self.seen = self.tried = self.error = None

    def abandon(self) -> None:
        """No successor any more."""
        self.is_reading = False
        self.fetcher = self.card = self.successor = None
