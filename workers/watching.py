"""One request under the eyes of journal and screen, from its body to its tokens: see ``requests.Watch``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from embeddaemon.protocol.journal import WHOLE_REQUEST
from embeddaemon.workers.journal import Journal, record
from embeddaemon.workers.screening import Refusal, Screen

_SLOT = 0
"""Intake's, in the journal."""


class Watch:
    """Of intake, for one request. ``alone`` as in ``link.Dispatch``."""

    def __init__(self, journal: Journal, screen: Screen, serial: int, alone: tuple[bytes, ...] | None) -> None:
        self._journal = journal
        self._screen = screen
        self._serial = serial
        self._alone = None if alone is None else frozenset(alone)

    def begin(self) -> None:
        """Its body is about to be decoded."""
        self._journal.begin(_SLOT, [record(self._serial, WHOLE_REQUEST)])

    def end(self) -> None:
        """It is tokenized, or refused."""
        self._journal.end(_SLOT)

    def refused(self, digests: Sequence[bytes]) -> Mapping[int, Refusal]:
        """Those that may not be touched, by their places."""
        return self._screen.refused(digests, time.monotonic())

    def parts(self, digests: Sequence[bytes]) -> Iterator[Sequence[int]]:
        """Places of what is tokenized together: in order, and what is suspected by itself."""
        together: list[int] = []
        for place, digest in enumerate(digests):
            if not self._is_alone(digest):
                together.append(place)
                continue
            if together:
                yield self._begun(together, digests)
                together = []
            yield self._begun([place], digests)
        if together:
            yield self._begun(together, digests)

    def _begun(self, places: Sequence[int], digests: Sequence[bytes]) -> Sequence[int]:
        self._journal.begin(_SLOT, [record(self._serial, digests[place]) for place in places])
        return places

    def places_alone(self, digests: Sequence[bytes]) -> frozenset[int]:
        """Of the texts that are computed with nothing else in the worker."""
        if self._alone is None:
            return frozenset()
        return frozenset(place for place, digest in enumerate(digests) if self._is_alone(digest))

    def _is_alone(self, digest: bytes) -> bool:
        return self._alone is not None and (not self._alone or digest in self._alone)
