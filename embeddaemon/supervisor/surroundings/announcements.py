"""What the service manager (systemd) is told, and when: the words of sd_notify(3). Pure.

READY=1 is said as soon as the socket answers, not when preloaded models are up: a request that comes before its model
waits and is answered, so nobody who is started after us needs more. A preload that waits for memory or for the network
would otherwise use up the time that a start may take, and a model's trouble would restart the daemon. STATUS= says
what is loading. The datagrams are sent in notify.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from embeddaemon.governor.budget import format_bytes
from embeddaemon.supervisor.documents import state_of
from embeddaemon.supervisor.state import State

Assignments = Mapping[str, str]
"""Variables of one message. A later value of the same variable makes the earlier one unneeded."""

LOOK_SECONDS = 0.2
"""Between two looks at what the status line says: a person reads it."""

EXTEND_EVERY_SECONDS = 5.0
EXTENSION_SECONDS = 15.0
"""While we drain: how often we ask for more time to stop, and how much. A loop that stands still gets none."""

_MOST_NAMES = 5


class Announcer:
    """Follows one life of the daemon. Times are monotonic seconds."""

    def __init__(self, watchdog_seconds: float | None) -> None:
        """``watchdog_seconds``: without a sign of life for so long the service manager restarts us; None: it waits."""
        # Half of it, as sd_watchdog_enabled(3) advises.
        self._beat_seconds = 0.0 if watchdog_seconds is None else watchdog_seconds / 2
        self._beat_at = math.inf if watchdog_seconds is None else -math.inf
        self._looked_at = -math.inf
        self._look_at = math.inf
        """When to look at the status again, if something may have changed since the last look."""
        self._status: str | None = None
        self._is_ready = False
        self._extend_at = math.inf
        """Finite from the moment on when we are asked to stop."""

    def next_due(self) -> float:
        """When ``turn`` is to be called again although nothing has happened."""
        return min(self._beat_at, self._look_at, self._extend_at)

    def turn(self, now: float, status: Callable[[float], str]) -> Assignments:
        """The loop went round: what is to be said, if anything. ``status`` makes the status line."""
        said: dict[str, str] = {}
        if not self._is_ready:
            self._is_ready = True
            said["READY"] = "1"
        if now >= self._beat_at:
            self._beat_at = now + self._beat_seconds
            said["WATCHDOG"] = "1"
        if now >= self._extend_at:
            self._extend_at = now + EXTEND_EVERY_SECONDS
            said["EXTEND_TIMEOUT_USEC"] = str(round(EXTENSION_SECONDS * 1_000_000))
        said |= self._changed_status(now, status)
        return said

    def _changed_status(self, now: float, status: Callable[[float], str]) -> Assignments:
        if now < self._looked_at + LOOK_SECONDS:
            self._look_at = self._looked_at + LOOK_SECONDS
            return {}
        self._looked_at, self._look_at = now, math.inf
        line = status(now)
        if line == self._status:
            return {}
        self._status = line
        return {"STATUS": line}

    def stopping(self, now: float) -> Assignments:
        """We were asked to stop. Said once, before whatever follows from it."""
        if self._extend_at < math.inf:
            return {}
        self._extend_at = now
        self._looked_at = -math.inf
        return {"STOPPING": "1"}

    def reloading(self, now: float) -> Assignments:
        """The configuration is about to be read again. Nothing before we are ready or while we stop."""
        if not self._is_ready or self._extend_at < math.inf:
            return {}
        return {"RELOADING": "1", "MONOTONIC_USEC": str(int(now * 1_000_000))}

    def reloaded(self) -> Assignments:
        """It was read, or found to be wrong: either way we go on."""
        return {"READY": "1"} if self._is_ready and self._extend_at == math.inf else {}


def status_line(state: State, now: float) -> str:
    """Models by state and the memory that is promised, in one line: what `systemctl status` shows."""
    if state.is_draining:
        return f"draining: {len(state.open)} request(s) to finish, {len(state.children)} process(es) to end"
    names: dict[str, list[str]] = {}
    for model in state.models.values():
        names.setdefault(state_of(model, now), []).append(model.name)
    models = "; ".join(f"{word}: {_some(names[word])}" for word in sorted(names, key=_ORDER.index))
    host = state.governor.snapshots(now)[0]
    return f"{models}; memory: {format_bytes(host.leased_bytes)} of {format_bytes(host.budget.bytes)} leased"


_ORDER = ("ready", "loading", "waiting", "unloading", "quarantined", "failed", "available", "unknown")
"""The words of ``state_of``, those first that an operator looks for."""


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
