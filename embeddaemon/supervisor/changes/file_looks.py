"""Looks at the files of models, each in a thread of its own. I/O.

A thread because asking a network folder may take for ever, and the loop must not: a look that never ends keeps a thread
and nothing else. It reads marks and hands them over; all that is decided is decided in the loop.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import zmq

from embeddaemon.models.fileset import marks_of
from embeddaemon.supervisor.commands import LookAtFiles
from embeddaemon.supervisor.events import FilesSeen


class FileLooks:
    """Looks that are under way, and what they found."""

    def __init__(self) -> None:
        self._found: SimpleQueue[FilesSeen] = SimpleQueue()
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)  # noqa: FBT003 - the standard library's signature

    def register(self, poller: zmq.Poller) -> None:
        """Becomes readable when a look is done."""
        poller.register(self._ours, zmq.POLLIN)

    def start(self, command: LookAtFiles) -> FilesSeen | None:
        """Begin a look; what came of it at once, where none can be begun."""
        try:
            # A daemon: it holds nothing, and one that waits for a network must not hold up our end.
            threading.Thread(target=self._look, args=(command,), daemon=True).start()
        except RuntimeError:  # no threads left
            return FilesSeen(command.model, None)
        return None

    def _look(self, command: LookAtFiles) -> None:
        try:
            marks = marks_of(Path(command.folder), command.names)
        except OSError:
            marks = None
        self._found.put(FilesSeen(command.model, marks))
        with contextlib.suppress(OSError):  # full of wake-ups that were not read yet, or closed
            self._theirs.send(b"\0")

    def read(self, ready: dict[Any, int]) -> list[FilesSeen]:
        """What was found, when the poller says so."""
        if self._ours.fileno() not in ready:
            return []
        with contextlib.suppress(BlockingIOError):
            self._ours.recv(4096)
        found: list[FilesSeen] = []
        with contextlib.suppress(Empty):
            while True:
                found.append(self._found.get_nowait())
        return found

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()
