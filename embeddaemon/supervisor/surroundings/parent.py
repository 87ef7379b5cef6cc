"""Notices that the process which the daemon belongs to is gone. I/O.

Two ways to name it. ``exit_with_parent``: whoever started us, seen by end-of-file on stdin, where that is a pipe or a
socket which that process holds open, and by our parent's pid: a process that it forked may hold stdin open too. Any
other stdin (/dev/null behind a shell's &, a terminal, none at all) says nothing. ``parent_pid``: any process that we
can see, by a descriptor of the process itself. PR_SET_PDEATHSIG would end us with the *thread* that started us.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat

from embeddaemon.errors import ConfigError
from embeddaemon.protocol.endpoints import socket_path

LOCK_SUFFIX = ".lock"
"""The listener's; see listener.py."""

_STDIN = 0


class ParentWatch:
    """Readable descriptors for a poller where there are any; and cheap enough to be asked now and then."""

    def __init__(self, *, is_starter: bool, pid: int | None) -> None:
        """``is_starter``: who started us; ``pid``: that process. Raises ConfigError when ``pid`` is no process.

        At least one of them is watched; the first that goes is meant.
        """
        self._starter = os.getppid() if is_starter else None
        self._pid = pid
        self._lifeline = _STDIN if is_starter and _is_lifeline(_STDIN) else None
        self._pidfd = None if pid is None else _open(pid)
        self._poll = select.poll()
        for descriptor in self.descriptors:
            self._poll.register(descriptor, select.POLLIN | select.POLLHUP)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Readable when it may be worth asking."""
        return tuple(each for each in (self._lifeline, self._pidfd) if each is not None)

    def is_gone(self) -> bool:
        """Whether any of them has ended. A zombie has."""
        if self._starter is not None and os.getppid() != self._starter:
            return True
        if self._pid is not None and self._pidfd is None and not _exists(self._pid):
            return True
        ready = {descriptor for descriptor, _ in self._poll.poll(0)}
        if self._pidfd in ready:
            return True
        return self._lifeline in ready and _is_at_end(_STDIN)

    def close(self) -> None:
        """Stdin stays open: it is not ours."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def _open(pid: int) -> int | None:
    """None where the system has no pidfds, or none left."""
    if pid == os.getpid() or not _exists(pid):
        what = "is the daemon itself" if pid == os.getpid() else "does not exist, or not any more"
        raise ConfigError(f"parent_pid: process {pid}, which the daemon is to end with, {what}")
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):  # gone this very moment: is_gone() sees that
            return os.pidfd_open(pid)
    return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_at_end(descriptor: int) -> bool:
    try:
        return os.read(descriptor, 4096) == b""
    except BlockingIOError:  # another process that has it too was faster
        return False
    except OSError:  # a socket whose other end was torn away
        return True


def _is_lifeline(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def remove_place(endpoint: str) -> None:
    """What a daemon that was one process's own still left: the lock, and the folder if nothing else is in it.

    After the listener was closed. Whoever opened that lock a moment ago finds that it is not the one at the path.
    """
    path = socket_path(endpoint)
    with contextlib.suppress(OSError):
        path.with_name(path.name + LOCK_SUFFIX).unlink()
        path.parent.rmdir()
