"""Reads the small text files of /proc and of cgroups. I/O.

What is not there, or not for us, reads as nothing; that a file cannot be read for another reason is an error.
"""

from __future__ import annotations

import errno
from pathlib import Path

# EOPNOTSUPP is how PSI says that it is switched off.
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP}


def read(file: Path) -> str:
    """The text of a file; empty if it is not there, not ours to read, or its cgroup was just removed.

    Raises OSError for anything else: a file that cannot be read for lack of descriptors must not look like no limit.
    """
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        if error.errno in _NOT_THERE:
            return ""
        raise


def number(file: Path) -> int | None:
    """The number in a file; None where there is no file or no number ("max"), which both mean no limit."""
    text = read(file).strip()
    return int(text) if text.isdecimal() else None


def numbers(text: str) -> dict[str, int]:
    """The second field of each line by its first, where it is a number. A colon after the first is left out."""
    fields = (line.replace(":", " ", 1).split() for line in text.splitlines())
    return {each[0]: int(each[1]) for each in fields if len(each) >= 2 and each[1].isdecimal()}
