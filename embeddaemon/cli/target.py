"""Where results are written: a file that is there whole or not at all, or a stream."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A seekable file that takes the name ``path`` when the block ends well, and is gone when it does not.

    It is written beside its target, so the change of name is one step of the file system; a link keeps pointing where
    it points. What is no regular file (a pipe, /dev/null) is written when the block has ended well.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        if target.is_dir():
            raise IsADirectoryError(21, "is a directory; name a file in it", str(path))
        with target.open("wb") as stream, spooled(stream) as file:
            yield file
        return
    if not target.parent.is_dir():
        raise FileNotFoundError(2, "there is no such folder", str(target.parent))
    with _named_beside(target) as file:
        yield file


@contextmanager
def spooled(stream: BinaryIO) -> Iterator[IO[bytes]]:
    """A seekable file on disk that is copied to ``stream`` when the block ends well."""
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        shutil.copyfileobj(file, stream, 1024 * 1024)
        stream.flush()


@contextmanager
def _named_beside(target: Path) -> Iterator[IO[bytes]]:
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".part", dir=target.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), _mode(target))
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _mode(target: Path) -> int:
    """The mode of the file that is replaced, or what an ordinary open would give: mkstemp's is for secrets."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def standard_output() -> BinaryIO:
    """Standard output for bytes."""
    return sys.stdout.buffer
