"""Notices that the process which started the daemon for itself is gone. I/O.

By end-of-file on stdin, which that process holds open, and by our parent's pid: a process that it forked may hold stdin
open too. PR_SET_PDEATHSIG would end us with the *thread* that started us, and without a drain.
"""

from __future__ import annotations

import os
import select
import sys


class ParentWatch:
    """Asked now and then; cheap."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._poll = select.poll()
        self._poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)

    @property
    def descriptor(self) -> int:
        return sys.stdin.fileno()

    def is_gone(self) -> bool:
        if os.getppid() != self._parent:
            return True
        if not self._poll.poll(0):
            return False
        return os.read(self.descriptor, 4096) == b""
