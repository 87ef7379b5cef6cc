"""Where the daemon keeps what it found out beyond its own life. Pure: the environment is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SYSTEM_STATE_FOLDER = Path("/var/lib/embeddaemon")


def state_folder(environment: Mapping[str, str], uid: int, system_owner: int | None = None) -> Path | None:
    """What systemd gives in ``$STATE_DIRECTORY``, the system's, ``$XDG_STATE_HOME/embeddaemon``, or that at home.

    The system's is root's and that of the user whom it belongs to (``system_owner``; None where it is not there): so a
    command that is run as either of them means the folder of the system's service. None where nothing says where the
    home is. Relative paths count as not set, as the XDG specification wants it.
    """
    # systemd joins several by colons; the first is ours.
    if (given := _absolute(environment.get("STATE_DIRECTORY", "").partition(":")[0])) is not None:
        return given
    if uid in {0, system_owner}:
        return SYSTEM_STATE_FOLDER
    if (state_home := _absolute(environment.get("XDG_STATE_HOME", ""))) is not None:
        return state_home / "embeddaemon"
    home = _absolute(environment.get("HOME", ""))
    return None if home is None else home / ".local" / "state" / "embeddaemon"


def _absolute(written: str) -> Path | None:
    path = Path(written)
    return path if path.is_absolute() else None
