"""Talks to the service manager that started us (systemd), by the datagram socket that it named. I/O.

What is said, and when, is decided in announcements.py; how the manager is found is in service.py.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from embeddaemon.supervisor.surroundings.announcements import Announcer, Assignments
from embeddaemon.supervisor.surroundings.service import Manager
from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)

_TRY_AGAIN_SECONDS = 0.1
"""After the service manager's queue was full."""


class Notifier:
    """Says what is to be said and never waits: what the manager's queue has no room for is said a little later.

    Without a manager nothing is said. ``status`` makes the status line; times are monotonic seconds.
    """

    def __init__(self, manager: Manager | None, status: Callable[[float], str]) -> None:
        self._status = status
        self._announcer = Announcer(None if manager is None else manager.watchdog_seconds)
        self._address = "" if manager is None else manager.address
        self._socket: socket.socket | None = None
        self._unsaid: dict[str, str] = {}
        self._try_again_at = float("inf")
        self._is_deaf = False
        if manager is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)  # noqa: FBT003 - the standard library's signature

    def next_due(self) -> float:
        """When ``turn`` is to be called again although nothing has happened."""
        return float("inf") if self._socket is None else min(self._announcer.next_due(), self._try_again_at)

    def turn(self, now: float) -> None:
        """Once in each turn of the loop, so that a loop that stands still is silent."""
        if self._socket is not None:
            self._say(self._announcer.turn(now, self._status), now)

    def stopping(self, now: float) -> None:
        """Before anything is done about being asked to stop."""
        self._say(self._announcer.stopping(now), now)

    @contextmanager
    def reloading(self, now: float) -> Iterator[None]:
        """Around reading the configuration again, whatever comes of it."""
        self._say(self._announcer.reloading(now), now)
        try:
            yield
        finally:
            self._say(self._announcer.reloaded(), now)

    def _say(self, assignments: Assignments, now: float) -> None:
        self._unsaid |= assignments
        if self._socket is None or not self._unsaid:
            return
        message = "\n".join(f"{name}={value}" for name, value in self._unsaid.items())
        try:
            self._socket.sendto(message.encode(), self._address)
        except BlockingIOError:
            self._try_again_at = now + _TRY_AGAIN_SECONDS
            return
        except OSError as error:
            self._note_deaf(str(error))
        else:
            self._is_deaf = False
        self._unsaid.clear()
        self._try_again_at = float("inf")

    def _note_deaf(self, reason: str) -> None:
        """The manager is gone, or for a moment. What is due later is said later; the log has one line of it."""
        if not self._is_deaf:
            log.warning(fields("service_manager_not_told", error=reason))
        self._is_deaf = True

    def close(self) -> None:
        """From now on nothing is said."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
