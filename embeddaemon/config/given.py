"""What somebody wrote for one key, and where: the raw values before they are checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from embeddaemon.errors import ConfigError

Key = tuple[str, ...]
"""Where a value stands: ``("daemon", "log_level")``, ``("models", "mini", "source")``."""

DEFAULT: Final = "default"
"""Origin of a value that nobody wrote."""

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_SHOWN_CHARACTERS = 80


class Text(str):
    """A value of an environment variable or a flag: always text, so numbers and booleans may be read out of it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Given:
    """One raw value."""

    value: object
    origin: str
    """The file, ``environment VARIABLE`` or ``flag --name``."""
    folder: Path
    """What a relative path is relative to: the file's folder, or the current one."""


def dotted(key: Key) -> str:
    """A key as TOML writes it."""
    return ".".join(part if part and set(part) <= _BARE else f'"{part}"' for part in key)


def shown(value: object) -> str:
    """A value as a message shows it: short, and on one line."""
    try:
        text = repr(str(value) if isinstance(value, Text) else value)
    except (RecursionError, ValueError):  # nested without end, or an integer too long to be written
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def mistake(key: Key, given: Given, reason: str) -> ConfigError:
    """The error for a value that cannot stand: file, key, value and what is allowed."""
    return ConfigError(
        f"{given.origin}: {dotted(key)} = {shown(given.value)}: {reason}",
        details={"origin": given.origin, "key": dotted(key), "value": shown(given.value)},
    )
