"""Texts that workers died of: suspected after one death, convicted after another one alone, forgotten in time. Pure.

Keyed by digest, so that a text is the same under another id and among others. What follows for requests is in blame.py;
that no worker touches a convicted text is the workers' own affair, once they are told (link.Convict).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

MOST_CONVICTED = 1024
"""Of one model; the oldest goes first. Every worker is told all of them, some 25 KB."""

MOST_SUSPECTED = 8192
"""Of one model: some micro-batches full."""


@dataclass(slots=True)
class Suspicion:
    """Against one text."""

    since: float
    deaths: set[int] = field(default_factory=set)
    """Child numbers of workers that died while they worked on it."""


class Suspects:
    """Of one model key. Times are monotonic seconds; ``remember_seconds`` for both kinds."""

    def __init__(self) -> None:
        self._suspected: OrderedDict[bytes, Suspicion] = OrderedDict()
        self._convicted: OrderedDict[bytes, float] = OrderedDict()
        """Until when."""

    @property
    def suspected(self) -> int:
        """How many texts are."""
        return len(self._suspected)

    def died(
        self, digests: AbstractSet[bytes], death: int, now: float, remember_seconds: float
    ) -> AbstractSet[int] | None:
        """Worker ``death`` died of one of these. Where that says which, and not for the first time: all that did.

        A death with several texts at hand makes each of them suspect and convicts none.
        """
        self._lapse(now, remember_seconds)
        if len(digests) == 1:
            (digest,) = digests
            before = self._suspected.get(digest)
            if before is not None and before.deaths - {death}:
                deaths = before.deaths | {death}
                self._convict(digest, deaths, now + remember_seconds)
                return deaths
        for digest in digests:
            suspicion = self._suspected.setdefault(digest, Suspicion(now))
            suspicion.since = now
            suspicion.deaths.add(death)
            self._suspected.move_to_end(digest)
        _shorten(self._suspected, MOST_SUSPECTED)
        return None

    def _convict(self, digest: bytes, deaths: AbstractSet[int], until: float) -> None:
        """Who was only there when it did it is suspected no more."""
        del self._suspected[digest]
        self._convicted[digest] = until
        self._convicted.move_to_end(digest)
        _shorten(self._convicted, MOST_CONVICTED)
        for other, suspicion in list(self._suspected.items()):
            suspicion.deaths -= deaths
            if not suspicion.deaths:
                del self._suspected[other]

    def cleared(self, digests: Iterable[bytes]) -> None:
        """These were computed, and their worker lives."""
        for digest in digests:
            self._suspected.pop(digest, None)

    def convicted(self, now: float) -> tuple[tuple[bytes, float], ...]:
        """Each with the seconds for which no worker may touch it."""
        return tuple((digest, until - now) for digest, until in self._convicted.items() if until > now)

    def forget(self) -> None:
        """Other weights, or somebody who knows better: all are as good as new."""
        self._suspected.clear()
        self._convicted.clear()

    def _lapse(self, now: float, remember_seconds: float) -> None:
        for digest in [each for each, until in self._convicted.items() if until <= now]:
            del self._convicted[digest]
        while self._suspected and next(iter(self._suspected.values())).since + remember_seconds <= now:
            self._suspected.popitem(last=False)


def _shorten(texts: OrderedDict[bytes, Suspicion] | OrderedDict[bytes, float], most: int) -> None:
    while len(texts) > most:
        texts.popitem(last=False)
