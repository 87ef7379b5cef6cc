"""A peer that is stopped cannot see that its pipe is closed: the kernel ends it when the benchmark is killed."""

from __future__ import annotations

import ctypes
import signal

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """In a child before it becomes the program; outlives the exec. Does nothing where the kernel is not Linux."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
