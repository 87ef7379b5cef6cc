"""Notices that the process which started the daemon for itself is gone. I/O.

By end-of-file on stdin, where that is a pipe or a socket which that process holds open, and by our parent's pid: a
process that it forked may hold stdin open too. Any other stdin (/dev/null behind a shell's &, a terminal, none at all)
says nothing. PR_SET_PDEATHSIG would end us with the *thread* that started us, and without a drain.
"""

from __future__ import annotations

import os
import select
import stat

_STDIN = 0


class ParentWatch:
    """Asked now and then; cheap."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._poll = select.poll()
        if _is_lifeline(_STDIN):
            self._poll.register(_STDIN, select.POLLIN | select.POLLHUP)

    def is_gone(self) -> bool:
        if os.getppid() != self._parent:
            return True
        if not self._poll.poll(0):
            return False
        return os.read(_STDIN, 4096) == b""


def _is_lifeline(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
