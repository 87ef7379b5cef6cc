"""What one user may take of the daemon, so that the others are served: connections, requests, bytes, loads. Pure.

A user is a uid or a key (authorisation.py). Our own user and root have no quota of requests, bytes and loads unless one
is configured: who may stop the daemon need not be kept from filling it, and the daemon that somebody starts for
himself has no other users.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass

from embeddaemon.config.settings import Quotas
from embeddaemon.errors import Busy

DEFAULT_REQUESTS = 384
"""Accepted and not ended: three quarters of a queue, so that the others find a place in it."""

DEFAULT_BYTES = 192 * 1024 * 1024
"""Bodies of those: three quarters of what all queues may hold."""

DEFAULT_LOADS_PER_MINUTE = 30
"""Models brought in by asking for them: loading takes seconds, so this is most of what a machine can load at all."""

CONNECTIONS_SHARE = 4
"""A user gets a quarter of the connections at most, unless it is ours or configured otherwise."""

_BUSY_RETRY_MS = 250
_MINUTE = 60.0
_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Quota:
    """One user's; None: no bound."""

    requests: int | None
    bytes: int | None
    loads_per_minute: int | None


def quota_of(configured: Quotas, *, is_admin: bool) -> Quota:
    """What a user may take: what was configured, for everybody; else the default, for all but our own user and root."""
    return Quota(
        requests=_first(configured.requests, None if is_admin else DEFAULT_REQUESTS),
        bytes=_first(configured.bytes, None if is_admin else DEFAULT_BYTES),
        loads_per_minute=_first(configured.loads_per_minute, None if is_admin else DEFAULT_LOADS_PER_MINUTE),
    )


def _first(configured: int | None, default: int | None) -> int | None:
    return default if configured is None else configured


class Usage:
    """What the users hold now, and what they were refused."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._loads: defaultdict[str, deque[float]] = defaultdict(deque)

    def check(self, user: str, body_bytes: int, quota: Quota) -> None:
        """Raises Busy with the numbers when one more request is too many. The first of a user is never."""
        held, held_bytes = self.requests[user], self.bytes[user]
        if quota.requests is not None and held >= quota.requests:
            said = f"{held} requests of yours are in flight"
            raise self._busy(user, said, "requests", used=held, limit=quota.requests)
        if quota.bytes is not None and held and held_bytes + body_bytes > quota.bytes:
            said = f"requests of yours hold {held_bytes} bytes"
            raise self._busy(user, said, "bytes", used=held_bytes, limit=quota.bytes)

    def check_load(self, user: str, quota: Quota, now: float) -> None:
        """Raises Busy when the user has brought in too many models lately."""
        loads = self._loads_since(user, now - _MINUTE)
        if quota.loads_per_minute is not None and len(loads) >= quota.loads_per_minute:
            said = f"your requests made {len(loads)} models load within a minute"
            wait_ms = int(1000 * (loads[0] + _MINUTE - now)) + 1 if loads else _MINUTE_MS
            raise self._busy(user, said, "loads", used=len(loads), limit=quota.loads_per_minute, retry_after_ms=wait_ms)

    def _busy(
        self, user: str, said: str, what: str, *, used: int, limit: int, retry_after_ms: int = _BUSY_RETRY_MS
    ) -> Busy:
        self.refused[user] += 1
        return Busy(
            f"{said}, and one user may have {limit}",
            retry_after_ms=retry_after_ms,
            details={"user": user, "quota": what, "used": used, "limit": limit},
        )

    def entered(self, user: str, body_bytes: int) -> None:
        """A request was accepted."""
        self.requests[user] += 1
        self.bytes[user] += body_bytes

    def left(self, user: str, body_bytes: int) -> None:
        """An accepted request has ended."""
        self.requests[user] -= 1
        self.bytes[user] -= body_bytes
        if not self.requests[user]:
            del self.requests[user], self.bytes[user]

    def loaded(self, user: str, now: float) -> None:
        """A request asked for a model that was not there."""
        self._loads_since(user, now - _MINUTE).append(now)

    def _loads_since(self, user: str, since: float) -> deque[float]:
        loads = self._loads[user]
        while loads and loads[0] <= since:
            loads.popleft()
        return loads

    def document(self, now: float) -> list[Mapping[str, object]]:
        """For ``status``: every user that holds something or was refused."""
        return [
            {
                "user": user,
                "requests": self.requests[user],
                "bytes": self.bytes[user],
                "loads_last_minute": len(self._loads_since(user, now - _MINUTE)),
                "refused": self.refused[user],
            }
            for user in sorted(self.requests.keys() | self.refused.keys() | self._loads.keys())
        ]


class Room:
    """Connections, and the bytes that are received or not yet sent, of all and of each user."""

    def __init__(
        self, *, connections: int, connections_of_user: int | None, bytes_of_user: int, bytes_of_all: int
    ) -> None:
        """``connections_of_user``: configured for everybody; None is a quarter of all, and all for us and root."""
        self.connections: Counter[str] = Counter()
        self.most = connections
        self._configured_of_user = connections_of_user
        self._bytes_of_user = bytes_of_user
        self._bytes_of_all = bytes_of_all
        self._held: Counter[str] = Counter()

    def has_place(self, user: str, *, is_admin: bool) -> bool:
        """Whether one more connection may stay."""
        if self.connections.total() >= self.most:
            return False
        default = self.most if is_admin else max(1, self.most // CONNECTIONS_SHARE)
        return self.connections[user] < _or(self._configured_of_user, default)

    def allow(self, connections_of_user: int | None) -> None:
        """As in ``__init__``, from now on: who has more keeps them, and gets no further one."""
        self._configured_of_user = connections_of_user

    def came(self, user: str) -> None:
        self.connections[user] += 1

    def went(self, user: str) -> None:
        self.connections[user] -= 1
        if not self.connections[user]:
            del self.connections[user]

    def hold(self, user: str, size: int) -> bool:
        """Whether so many bytes more may be held for a user, who may always have one frame; if so, they are."""
        held = self._held[user]
        if held and (held + size > self._bytes_of_user or self._held.total() + size > self._bytes_of_all):
            return False
        self._held[user] += size
        return True

    def release(self, user: str, size: int) -> None:
        self._held[user] -= size
        if not self._held[user]:
            del self._held[user]


def _or(configured: int | None, default: int) -> int:
    return default if configured is None else configured
