"""How many files and sockets this process may have open. I/O."""

from __future__ import annotations

import os
import resource
from pathlib import Path

MOST_CONNECTIONS = 8192
"""However many descriptors there are: a connection takes a few kilobytes of ours."""

_SHARE_PERCENT = 70
"""Of the descriptors for clients and what we have open at the start; the rest is for workers and files."""

_LEAST_CONNECTIONS = 8


def raise_limit() -> int:
    """As many open files as the system allows us; gives how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS calls it unlimited and takes no such number
            return soft
    return MOST_CONNECTIONS * 2 if hard == resource.RLIM_INFINITY else hard


def most_connections(limit: int) -> int:
    """How many clients may be connected, of ``limit`` descriptors."""
    folder = Path("/proc/self/fd")
    ours = len(list(folder.iterdir())) if folder.is_dir() else 32
    return min(MOST_CONNECTIONS, max(_LEAST_CONNECTIONS, limit * _SHARE_PERCENT // 100 - ours))


def open_standard_descriptors() -> None:
    """Started with one of them closed, the first socket would take its number, and what is printed would go there."""
    null = os.open(os.devnull, os.O_RDWR)
    while null <= 2:
        os.set_inheritable(null, True)  # noqa: FBT003 - the standard library's signature
        null = os.open(os.devnull, os.O_RDWR)
    os.close(null)
