"""What systemd is to a service, without systemd: a notify socket, a watchdog's interval, a socket that it listens at.

As a program, ``python tests/support/service_manager.py DESCRIPTOR PROGRAM...`` becomes PROGRAM under the number that
LISTEN_PID and WATCHDOG_PID name; DESCRIPTOR is passed as the first one that sd_listen_fds(3) speaks of, 0 passes none.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FIRST_PASSED = 3


class NotifySocket:
    """The datagram socket that a service reports to, and everything that was said there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(path))
        self.messages: list[dict[str, str]] = []

    def read(self) -> list[dict[str, str]]:
        """All messages until now, the oldest first."""
        while True:
            try:
                text = self._socket.recv(65536).decode()
            except BlockingIOError:
                return self.messages
            self.messages.append(dict(line.split("=", 1) for line in text.split("\n")))

    def values(self, name: str) -> list[str]:
        """Of one variable, as they came."""
        return [message[name] for message in self.read() if name in message]

    def counts(self) -> Counter[str]:
        """How often each variable was set."""
        return Counter(name for message in self.read() for name in message)

    def is_silent(self, duration_seconds: float) -> bool:
        """Whether nothing more is said for so long; returns as soon as something is."""
        return not select.select([self._socket], [], [], duration_seconds)[0]

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)


@contextmanager
def notify_socket(path: Path) -> Iterator[NotifySocket]:
    """Bound at the path as long as the block lasts."""
    opened = NotifySocket(path)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def listening_socket(path: Path) -> Iterator[socket.socket]:
    """Bound and listening, as a .socket unit has it before any service runs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen(16)
        try:
            yield listening
        finally:
            path.unlink(missing_ok=True)


def become(descriptor: int, command: list[str]) -> None:
    """The program of this file."""
    os.environ["WATCHDOG_PID"] = str(os.getpid())
    if descriptor:
        os.dup2(descriptor, FIRST_PASSED)
        os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    os.execvp(command[0], command)


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
