"""Reads the folders of models, each in a thread: a folder on a network may take for ever, and the loop must not. I/O.

The loop waits for what was read, because it goes on from there, but only so long. A folder that does not answer counts
as one that cannot be read: its model fails and is tried again later, as after any failed load, and others are served.
"""

from __future__ import annotations

import logging
import threading
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

PATIENCE_SECONDS = 5.0
"""A disk that sleeps, or a network that was busy, is there after so long; a large folder is read in a tenth of it."""

PATIENCE_BESIDE_SECONDS = 0.5
"""While another folder does not answer: a dozen on one dead server must not add up to the watchdog's time."""


class FolderReads:
    """Reads, and those that never came to an end: each keeps a thread and nothing else, until its folder answers."""

    def __init__(
        self,
        read: Callable[[ReadCard], CardRead | CardFailed] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._read = read or read_folder
        self._patience_seconds = patience_seconds
        self._stuck: dict[str, threading.Thread] = {}
        """By folder or source."""

    def read(self, command: ReadCard) -> CardRead | CardFailed:
        """What the folder is, or what is wrong with it. Waits a few seconds, and not at all for one that is stuck."""
        place = command.folder or command.spec.source
        self._stuck = {each: thread for each, thread in self._stuck.items() if thread.is_alive()}
        if place in self._stuck:
            return _no_answer(command, place)
        patience_seconds = min(self._patience_seconds, PATIENCE_BESIDE_SECONDS if self._stuck else float("inf"))
        found: SimpleQueue[CardRead | CardFailed] = SimpleQueue()
        thread = threading.Thread(target=lambda: found.put(self._read(command)), daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no threads left
            failed = FailedLoad(f"model {command.spec.name!r}: its folder cannot be read now: {error}")
            return CardFailed(command.spec.name, failed, command.is_successor)
        try:
            return found.get(timeout=patience_seconds)
        except Empty:
            self._stuck[place] = thread
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
