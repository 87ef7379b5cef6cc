"""Opening a model's files: once, without waiting for anybody, and looked at through the descriptor that is read."""

from __future__ import annotations

import os
import stat
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from embeddaemon.errors import CorruptModel
from embeddaemon.models.ownership import check_mode

_POINTER = b"version https://git-lfs.github.com/spec/v1"


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


def both_ends(path: Path, most_bytes: int) -> tuple[bytes, bytes] | None:
    """The first and the last bytes of a file of any size, at most so many each; None where it is absent.

    Raises CorruptModel when it cannot be read, and what ``check_open`` raises.
    """
    try:
        with open_file(path) as file:
            size = check_open(file, str(path)).st_size
            first = read_exactly(file, min(size, most_bytes), str(path))
            file.seek(max(0, size - most_bytes))
            last = read_exactly(file, min(size, most_bytes), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CorruptModel(f"{path} cannot be read: {error.strerror or error}") from error
    refuse_pointer(first, str(path))
    return first, last


def refuse_pointer(first: bytes, path: str) -> None:
    """Raises CorruptModel where a file begins as those do that git-lfs leaves in the place of large ones.

    The line is that of its specification of pointers, version 1.
    """
    if first.startswith(_POINTER):
        raise CorruptModel(f"{path} is a pointer of git-lfs, not the file itself: run `git lfs pull` in its folder")


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
