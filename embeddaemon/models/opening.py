"""Opening a model's files: once, without waiting for anybody, and looked at through the descriptor that is read."""

from __future__ import annotations

import os
import stat
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from embeddaemon.errors import CorruptModel
from embeddaemon.models.ownership import check_mode


def open_file(path: Path) -> FileIO:
    """A file to be read, unbuffered; a link to it is followed. A pipe or a device under its name holds nobody up.

    Raises OSError.
    """
    return FileIO(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def check_open(file: BinaryIO, path: str) -> os.stat_result:
    """The status of an open file. Raises CorruptModel unless it is regular, UnsafeModel if everybody may change it."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise CorruptModel(f"{path} is not a regular file")
    check_mode(status, path)
    return status


def checked_bytes(path: Path, most_bytes: int) -> bytes:
    """All of a small file. Raises what ``check_open`` raises, CorruptModel when it is too large, and OSError."""
    with open_file(path) as file:
        size = check_open(file, str(path)).st_size
        if size > most_bytes:
            raise CorruptModel(f"{path} is larger than {most_bytes} bytes")
        return read_exactly(file, size, str(path))


def read_exactly(file: BinaryIO, count: int, path: str) -> bytes:
    """``count`` bytes from where the file stands. Raises CorruptModel when it has become shorter."""
    parts: list[bytes] = []
    while count:
        part = file.read(count)
        if not part:
            raise CorruptModel(f"{path} became shorter while it was read")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
