"""The files of the workers' journals: made before a worker is started, read after its death. I/O.

Each is memory without a name, which we and one worker hold (protocol/journal.py has its layout). Where it cannot be
made (no descriptors left), the worker goes without, and all that it held is suspected when it dies.
"""

from __future__ import annotations

import os
import tempfile

from embeddaemon.protocol.journal import Turn, read_turns


class Journals:
    """By child number."""

    def __init__(self) -> None:
        self._descriptors: dict[int, int] = {}

    def make(self, child: int) -> list[int]:
        """A journal for a worker that is about to be started: its descriptor, ours, or none."""
        try:
            descriptor = _anonymous_file()
        except OSError:
            return []
        self._descriptors[child] = descriptor
        return [descriptor]

    def read(self, child: int) -> tuple[Turn, ...] | None:
        """What its worker was at when it ended; None when nobody can say."""
        descriptor = self._descriptors.get(child)
        if descriptor is None:
            return None
        try:
            return read_turns(lambda offset, size: os.pread(descriptor, size, offset))
        except OSError:
            return None

    def forget(self, child: int) -> None:
        """Nobody needs it any more; its memory is free when the worker is gone."""
        descriptor = self._descriptors.pop(child, None)
        if descriptor is not None:
            os.close(descriptor)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("embeddaemon-journal", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
