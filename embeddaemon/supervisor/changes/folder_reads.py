"""Reads the folders of models, each in a thread: a folder on a network may take for ever, and the loop must not. I/O.

The loop waits for what was read, because it goes on from there, but only so long. A folder that does not answer counts
as one that cannot be read: its model fails and is tried again later, as after any failed load, and others are served.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

from embeddaemon.errors import CorruptModel, EmbedDaemonError, FailedLoad
from embeddaemon.models.folder import read_card
from embeddaemon.models.sources import locate, parse_source
from embeddaemon.supervisor.commands import ReadCard
from embeddaemon.supervisor.events import CardFailed, CardRead
from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)

Read = Callable[[ReadCard], CardRead | CardFailed]
"""Takes as long as it takes."""

PATIENCE_SECONDS = 5.0
"""A disk that sleeps, or a network that was busy, is there after so long; a large folder is read in a tenth of it."""

PATIENCE_BESIDE_SECONDS = 0.5
"""While another folder does not answer: a dozen on one dead server must not add up to the watchdog's time."""

FRESH_SECONDS = 60.0
"""What a folder answered too late is taken by who asks within so long: twice the longest time between two tries."""


class _Reading:
    """One read in a thread of its own. Raises RuntimeError when there are no threads left."""

    def __init__(self, read: Read, command: ReadCard) -> None:
        self.command = command
        self._read = read
        self._found: SimpleQueue[CardRead | CardFailed] = SimpleQueue()
        self._ended_at = float("inf")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        found = self._read(self.command)
        self._ended_at = time.monotonic()
        self._found.put(found)

    def wait(self, seconds: float) -> CardRead | CardFailed:
        """Raises Empty when there is nothing by then."""
        return self._found.get(timeout=seconds)

    @property
    def is_stuck(self) -> bool:
        return self._thread.is_alive()

    @property
    def is_stale(self) -> bool:
        return time.monotonic() - self._ended_at > FRESH_SECONDS


class FolderReads:
    """Reads, and those that had no end in time: each keeps a thread and nothing else, until its folder answers."""

    def __init__(self, read: Read | None = None, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._read = read or read_folder
        self._patience_seconds = patience_seconds
        self._late: dict[str, _Reading] = {}
        """By folder or source."""

    def read(self, command: ReadCard) -> CardRead | CardFailed:
        """What the folder is, or what is wrong with it. Waits a few seconds, and not at all for one that is stuck.

        What came too late for an earlier try is given to this one: a folder that is only slow holds nobody up again.
        """
        place = command.folder or command.spec.source
        self._late = {each: late for each, late in self._late.items() if not late.is_stale}
        late = self._late.get(place)
        if late is not None and late.is_stuck:
            return _no_answer(command, place)
        if late is not None:
            del self._late[place]
            if late.command == command:
                with contextlib.suppress(Empty):  # it died
                    return late.wait(0)
        try:
            reading = _Reading(self._read, command)
        except RuntimeError as error:  # no threads left
            failed = FailedLoad(f"model {command.spec.name!r}: its folder cannot be read now: {error}")
            return CardFailed(command.spec.name, failed, command.is_successor)
        is_beside = any(each.is_stuck for each in self._late.values())
        try:
            return reading.wait(min(self._patience_seconds, PATIENCE_BESIDE_SECONDS if is_beside else float("inf")))
        except Empty:
            self._late[place] = reading
        log.error(fields("folder_does_not_answer", model=command.spec.name, folder=place))
        return _no_answer(command, place)


def _no_answer(command: ReadCard, place: str) -> CardFailed:
    error = FailedLoad(
        f"model {command.spec.name!r}: {place} does not answer: is it on a network that is down? It is tried again"
    )
    return CardFailed(command.spec.name, error, command.is_successor)


def read_folder(command: ReadCard) -> CardRead | CardFailed:
    """Read a model's folder: what it is, or what is wrong with it. Takes as long as it takes."""
    spec = command.spec
    try:
        folder = Path(command.folder) if command.folder is not None else locate(parse_source(spec.source))
        return CardRead(spec.name, read_card(spec, folder), command.is_successor)
    except EmbedDaemonError as error:
        return CardFailed(spec.name, error, command.is_successor)
    except OSError as error:
        unreadable = FailedLoad(f"model {spec.name!r}: its folder cannot be read: {error}")
        return CardFailed(spec.name, unreadable, command.is_successor)
    except Exception as error:
        # A boundary: no folder, whatever is in it, ends the daemon.
        log.exception(fields("folder_not_understood", model=spec.name))
        odd = CorruptModel(f"model {spec.name!r}: its folder cannot be understood: {type(error).__name__}: {error}")
        return CardFailed(spec.name, odd, command.is_successor)
