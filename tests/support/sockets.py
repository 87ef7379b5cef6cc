"""Folders for sockets in tests: the system allows a socket's path about a hundred bytes, less than tmp_path uses."""

import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_folder() -> Iterator[Path]:
    """A new folder with a short path, only for us, removed at the end.

    Raises AssertionError when a socket file is left in it: whoever binds a path also removes it. A test that kills the
    owner of the socket removes the file itself.
    """
    folder = Path(tempfile.mkdtemp(prefix="ed-", dir="/tmp"))
    try:
        yield folder
        left = socket_files(folder)
        assert not left, f"socket files are left: {', '.join(map(str, left))}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def socket_files(folder: Path) -> list[Path]:
    """The socket files anywhere below a folder."""
    return sorted(path for path in folder.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode))
