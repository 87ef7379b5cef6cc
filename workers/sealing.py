"""A copy of a file in memory that nobody can change any more, us included (Linux: a sealed memfd)."""

from __future__ import annotations

import fcntl
import os
from io import FileIO

from embeddaemon.errors import UnsupportedModel

_CHUNK_BYTES = 64 * 1024 * 1024
# linux/memfd.h and linux/fcntl.h; Python has names for them from 3.9 on, where the system had them when it was built.
_F_ADD_SEALS = 1033
_SEAL_ALL = 0x0001 | 0x0002 | 0x0004 | 0x0008
"""SEAL, SHRINK, GROW and WRITE: neither these seals nor a byte or the length can change until it is closed."""


def sealed_copy(file: FileIO, size: int, path: str) -> FileIO:
    """A sealed copy of the first ``size`` bytes of an open file, unbuffered, at its beginning.

    Whoever closes it frees the memory. A file that is shorter gives a shorter copy. Raises UnsupportedModel where there
    are no such copies.
    """
    if not hasattr(os, "memfd_create"):
        raise UnsupportedModel(f'{path}: weights = "sealed" needs Linux; use "copied"')
    copy = os.memfd_create("embeddaemon-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.fchmod(copy, 0o400)
        left = size
        while left and (count := os.sendfile(copy, file.fileno(), None, min(left, _CHUNK_BYTES))):
            left -= count
        fcntl.fcntl(copy, _F_ADD_SEALS, _SEAL_ALL)
        os.lseek(copy, 0, os.SEEK_SET)
        return FileIO(copy, "rb")
    except BaseException:
        os.close(copy)
        raise
