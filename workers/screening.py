"""Which texts a worker must not touch, and for how long: what the supervisor convicted. Pure.

Two threads use it: intake adds and asks, compute asks. Each reads and replaces one dictionary whole, so neither waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from embeddaemon.errors import Poisoned
from embeddaemon.protocol.link import Convicted


@dataclass(frozen=True, slots=True)
class Refusal:
    """Of one text."""

    seconds_left: float
    death: str
    """Class of the deaths by it."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    until: float
    death: str


class Screen:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._verdicts: Mapping[bytes, _Verdict] = {}

    def __bool__(self) -> bool:
        return bool(self._verdicts)

    def convict(self, texts: Iterable[Convicted], now: float) -> None:
        """Refuse these as well; what has lapsed is forgotten."""
        kept = {digest: verdict for digest, verdict in self._verdicts.items() if verdict.until > now}
        more = {text.digest: _Verdict(now + text.expires_in_ms / 1000, text.death) for text in texts}
        self._verdicts = kept | more

    def refused(self, digests: Sequence[bytes], now: float) -> Mapping[int, Refusal]:
        """Those that are refused, by their places."""
        verdicts = self._verdicts
        if not verdicts:
            return {}
        found = ((place, verdicts.get(digest)) for place, digest in enumerate(digests))
        return {
            place: Refusal(verdict.until - now, verdict.death)
            for place, verdict in found
            if verdict is not None and verdict.until > now
        }


def poisoned(name: str, refusals: Mapping[int, Refusal]) -> Poisoned:
    """The error that names the texts of a request by their indices, ascending."""
    indices = list(refusals)
    seconds_left = max(each.seconds_left for each in refusals.values())
    named = ", ".join(map(str, indices[:5]))
    deaths = ", ".join(sorted({each.death for each in refusals.values()}))
    return Poisoned(
        f"texts {named}{', …' if len(indices) > 5 else ''} of the request are refused: workers of {name} died of them "
        f"({deaths}), and they are not computed for another {seconds_left:.0f} s; other texts are not concerned",
        details={
            "indices": list(indices),
            "seconds_left": round(seconds_left, 1),
            "death": refusals[indices[0]].death,
        },
        retry_after_ms=max(1, int(seconds_left * 1000)),
    )
