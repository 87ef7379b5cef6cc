"""Which texts a worker must not touch, and for how long: what the supervisor convicted. Pure.

Two threads use it: intake adds and asks, compute asks. Each reads and replaces one dictionary whole, so neither waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from embeddaemon.errors import Poisoned
from embeddaemon.protocol.link import Convicted


class Screen:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._until: Mapping[bytes, float] = {}

    def __bool__(self) -> bool:
        return bool(self._until)

    def convict(self, texts: Iterable[Convicted], now: float) -> None:
        """Refuse these as well; what has lapsed is forgotten."""
        kept = {digest: until for digest, until in self._until.items() if until > now}
        self._until = kept | {text.digest: now + text.expires_in_ms / 1000 for text in texts}

    def refused(self, digests: Sequence[bytes], now: float) -> Mapping[int, float]:
        """Places of those that are refused, and for how many seconds yet."""
        until = self._until
        if not until:
            return {}
        left = ((place, until.get(digest, now) - now) for place, digest in enumerate(digests))
        return {place: seconds for place, seconds in left if seconds > 0}


def poisoned(name: str, indices: Sequence[int], seconds_left: float) -> Poisoned:
    """The error that names the texts of a request by their indices."""
    named = ", ".join(map(str, indices[:5]))
    return Poisoned(
        f"texts {named}{', …' if len(indices) > 5 else ''} of the request are refused: workers of {name} died of them, "
        f"and they are not computed for another {seconds_left:.0f} s; other texts are not concerned",
        details={"indices": list(indices), "seconds_left": round(seconds_left, 1)},
        retry_after_ms=max(1, int(seconds_left * 1000)),
    )
