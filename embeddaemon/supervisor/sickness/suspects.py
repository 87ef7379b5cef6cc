"""Texts that workers died of: suspected after one death, convicted after another one alone, forgotten in time. Pure.

Keyed by digest, so that a text is the same under another id and among others. What follows for requests is in blame.py;
that no worker touches a convicted text is the workers' own affair, once they are told (link.Convict).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from embeddaemon.protocol.link import Convicted
from embeddaemon.supervisor.processes.lifecycle import DeathClass

MOST_CONVICTED = 1024
"""Of one model; the oldest goes first. Every worker is told all of them, some 35 KB."""

MOST_SUSPECTED = 8192
"""Of one model: some micro-batches full."""


@dataclass(slots=True)
class Suspicion:
    """Against one text."""

    since: float
    deaths: set[int] = field(default_factory=set)
    """Child numbers of workers that died while they worked on it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one text."""

    until: float
    death: DeathClass


class Suspects:
    """Of one model key. Times are monotonic seconds; ``remember_seconds`` for both kinds."""

    def __init__(self) -> None:
        self._suspected: OrderedDict[bytes, Suspicion] = OrderedDict()
        self._convicted: OrderedDict[bytes, Verdict] = OrderedDict()

    @property
    def suspected(self) -> int:
        """How many texts are."""
        return len(self._suspected)

    def died(
        self, digests: AbstractSet[bytes], child: int, death: DeathClass, now: float, *, remember_seconds: float
    ) -> AbstractSet[int] | None:
        """Worker ``child`` died of one of these. Where that says which, and not for the first time: all that did.

        A death with several texts at hand makes each of them suspect and convicts none.
        """
        self._lapse(now, remember_seconds)
        if len(digests) == 1:
            (digest,) = digests
            before = self._suspected.get(digest)
            if before is not None and before.deaths - {child}:
                deaths = before.deaths | {child}
                self._convict(digest, deaths, Verdict(now + remember_seconds, death))
                return deaths
        for digest in digests:
            suspicion = self._suspected.setdefault(digest, Suspicion(now))
            suspicion.since = now
            suspicion.deaths.add(child)
            self._suspected.move_to_end(digest)
        _shorten(self._suspected, MOST_SUSPECTED)
        return None

    def _convict(self, digest: bytes, deaths: AbstractSet[int], verdict: Verdict) -> None:
        """Who was only there when it did it is suspected no more."""
        del self._suspected[digest]
        self._convicted[digest] = verdict
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

    def convicted(self, now: float) -> tuple[Convicted, ...]:
        """Those that no worker may touch now."""
        left = ((digest, int(1000 * (one.until - now)), one.death) for digest, one in self._convicted.items())
        return tuple(Convicted(digest, left_ms, death.value) for digest, left_ms, death in left if left_ms > 0)

    def forget(self) -> None:
        """Other weights, or somebody who knows better: all are as good as new."""
        self._suspected.clear()
        self._convicted.clear()

    def _lapse(self, now: float, remember_seconds: float) -> None:
        for digest in [each for each, verdict in self._convicted.items() if verdict.until <= now]:
            del self._convicted[digest]
        while self._suspected and next(iter(self._suspected.values())).since + remember_seconds <= now:
            self._suspected.popitem(last=False)


def _shorten(texts: OrderedDict[bytes, Suspicion] | OrderedDict[bytes, Verdict], most: int) -> None:
    while len(texts) > most:
        texts.popitem(last=False)
