"""What befalls connections, counted for ``status`` and told in the log, of each kind now and then. I/O, for the log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)

_LOG_SECONDS = 1.0


class Notes:
    """What befalls connections: counted always; in the log once a second of each kind."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._told_at: dict[str, float] = {}

    def note(self, what: str, **facts: object) -> None:
        """Count it, and perhaps tell."""
        self.counts[what] += 1
        now = self._clock()
        if now - self._told_at.get(what, float("-inf")) >= _LOG_SECONDS:
            self._told_at[what] = now
            log.warning(fields(what, count=self.counts[what], **facts))
