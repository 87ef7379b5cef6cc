"""How many files and sockets this process may have open. I/O."""

from __future__ import annotations

import errno
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from embeddaemon.errors import ConfigError

MOST_CONNECTIONS = 8192
"""However many descriptors there are: a connection takes a few kilobytes of ours."""

_SHARE_PERCENT = 70
"""Of the descriptors for clients and what we have open at the start; the rest is for workers and files."""

_LEAST_CONNECTIONS = 8

LEAST_FREE = 32
"""At the start: while one model serves one client about 22 more are open than then, counted on Linux."""

ENOUGH_FOR_NETWORK = 4096
"""With a limit of so many, libzmq cannot take them all between two looks of ours at what it has accepted: after a
thousand connections of which we have not heard it waits for us (network.py)."""


NO_MORE = frozenset({errno.EMFILE, errno.ENFILE})
"""What the system says when there is none left."""

WAY_OUT = "raise `ulimit -n` (LimitNOFILE= in a unit)"


@dataclass(frozen=True, slots=True)
class Shares:
    """How many connections there may be."""

    local: int
    network: int
    """Each of them takes two descriptors."""


def raise_limit() -> int:
    """As many open files as the system allows us; gives how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS calls it unlimited and takes no such number
            return soft
    return MOST_CONNECTIONS * 2 if hard == resource.RLIM_INFINITY else hard


def check_enough() -> None:
    """Raises ConfigError when there are too few for a daemon: before anything is made, and libzmq ends us for it."""
    limit, ours = raise_limit(), _open_now()
    if limit - ours < LEAST_FREE:
        raise ConfigError(
            f"the daemon may have {limit} files and sockets open, of which {ours} are in use, and it needs "
            f"{LEAST_FREE} more: {WAY_OUT}"
        )


def _open_now() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 4


def shares(limit: int, *, has_network: bool) -> Shares:
    """Of ``limit`` descriptors: all for local clients, or half for them and half for those of the network."""
    free = max(_LEAST_CONNECTIONS, limit * _SHARE_PERCENT // 100 - _open_now())
    if not has_network:
        return Shares(min(MOST_CONNECTIONS, free), 0)
    return Shares(min(MOST_CONNECTIONS, free // 2), min(MOST_CONNECTIONS // 2, free // 4))


def open_standard_descriptors() -> None:
    """Started with one of them closed, the first socket would take its number, and what is printed would go there."""
    null = os.open(os.devnull, os.O_RDWR)
    while null <= 2:
        os.set_inheritable(null, True)  # noqa: FBT003 - the standard library's signature
        null = os.open(os.devnull, os.O_RDWR)
    os.close(null)
