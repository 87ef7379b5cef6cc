"""Where log lines go: a descriptor whose reader may be slow, stuck or gone. A line is lost before anybody waits. I/O.

Standard error may be a pipe that nobody empties, a terminal that was stopped by Ctrl-S, the journal of a machine that
stands still. Whoever logs has better things to do: the supervisor's loop serves everybody, a worker that waits is
killed as silent. So what finds no room is counted, and the count is told as soon as there is room again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import stat
import time
from collections.abc import Callable

PATIENCE_SECONDS = 0.05
"""How long lines wait for a reader that is only slow, in all, within each ``PATIENCE_EVERY_SECONDS``."""

PATIENCE_EVERY_SECONDS = 1.0

_PIPE_BUF = 4096
"""On Linux a pipe to which ``poll`` lets us write takes so much without waiting."""


class LogOutput(logging.Handler):
    """Writes each record as a line to a descriptor, which stays the caller's."""

    def __init__(self, descriptor: int, notice: Callable[[int], logging.LogRecord]) -> None:
        """``notice`` makes the record that says how many lines were lost. Raises OSError for what is no descriptor."""
        super().__init__()
        self._notice = notice
        self._socket: socket.socket | None = None
        self._own: int | None = None
        """A way to the same pipe or terminal on which writing never waits: others keep theirs as it is."""
        self._descriptor = descriptor
        self._most_bytes = _PIPE_BUF
        self._is_closed = False
        self._process = os.getpid()
        self._rest = b""
        """Of a line that went out in part."""
        self._lost = 0
        self._impatient_until = 0.0
        self._open(os.fstat(descriptor).st_mode)

    def _open(self, mode: int) -> None:
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(self._descriptor))
        elif stat.S_ISREG(mode):
            self._most_bytes = 1 << 30
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            with contextlib.suppress(OSError):  # no /proc, or another user's: then poll says when there is room
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._own = os.open(f"/proc/self/fd/{self._descriptor}", flags)

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, or count it as lost."""
        if self._is_closed:
            return
        try:
            self._put(self._line(record))
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _put(self, line: bytes) -> None:
        if self._process != (process := os.getpid()):  # forked: what is owed, the parent tells
            self._process, self._rest, self._lost = process, b"", 0
        self._rest = self._written(self._rest)
        if not self._rest and self._lost:
            notice = self._line(self._notice(self._lost))
            left = self._written(notice)
            if left != notice:
                self._rest, self._lost = left, 0
        if self._rest or self._lost:
            self._lost += 1
            return
        left = self._written(line)
        if left == line:
            self._lost += 1
        else:
            self._rest = left

    def _written(self, data: bytes) -> bytes:
        """Writes and gives what there was no room for. Who is gone, or has no room for ever, takes nothing."""
        while data:
            try:
                data = data[self._write(data[: self._most_bytes]) :]
            except BlockingIOError:
                if not self._has_room_soon():
                    break
            except OSError:
                break
        return data

    def _write(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        if self._own is not None:
            return os.write(self._own, data)
        if not self._has_room(0):
            raise BlockingIOError
        return os.write(self._descriptor, data)

    def _has_room_soon(self) -> bool:
        now = time.monotonic()
        if now < self._impatient_until:
            return False
        self._impatient_until = now + PATIENCE_EVERY_SECONDS
        return self._has_room(PATIENCE_SECONDS)

    def _has_room(self, wait_seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(wait_seconds * 1000))

    def close(self) -> None:
        """Nothing more is written."""
        self._is_closed = True
        if self._socket is not None:
            self._socket.close()
        if self._own is not None:
            os.close(self._own)
        self._socket = self._own = None
        super().close()
