"""Reads the configuration again: the same files, the environment and the flags of the start, and models' folders. I/O.

What follows from it is decided in reconfiguration.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from embeddaemon.config.changes import compare
from embeddaemon.config.loading import Loaded
from embeddaemon.errors import ConfigError, EmbedDaemonError, InvalidInput
from embeddaemon.supervisor.changes.folder_reads import Read
from embeddaemon.supervisor.commands import ReadCard, ReadSettings
from embeddaemon.supervisor.connections.peers import access_of
from embeddaemon.supervisor.events import SettingsRead, SettingsWrong


@dataclass(frozen=True, slots=True)
class Source:
    """Where the settings came from."""

    load: Callable[[], Loaded] | None = None
    """Does again what was done at the start; None: whoever started us did not say where they are from."""
    files: tuple[str, ...] = ()
    """That were read then."""


def read_settings(source: Source, command: ReadSettings, read_folder: Read) -> SettingsRead | SettingsWrong:
    """Everything as it lies there now, or why it cannot be used."""
    try:
        if source.load is None:
            raise InvalidInput("this daemon was not told where its settings came from: it cannot read them again")
        loaded = source.load()
        changes = compare(command.settings, loaded.settings)
        access = access_of(changes.settings.access)
    except EmbedDaemonError as error:
        return SettingsWrong(error, command.asker)
    except OSError as error:
        return SettingsWrong(ConfigError(f"the configuration cannot be read: {error}"), command.asker)
    cards = {spec.name: read_folder(ReadCard(spec, None)) for spec in changes.to_be_read if not spec.is_of_hub}
    return SettingsRead(changes, cards, tuple(str(path) for path in loaded.files), access, command.asker)
