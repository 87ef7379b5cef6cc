"""Settings as rows of key, value and origin, and as TOML that could be saved: what ``config show`` prints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from embeddaemon.config.given import DEFAULT, Key, dotted
from embeddaemon.config.loading import Loaded
from embeddaemon.config.options import ACCESS, DAEMON, LIMITS, MODEL, PER_USER, Option
from embeddaemon.models.spec import WorkerBounds

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]

_COMMENT_COLUMN = 48


@dataclass(frozen=True, slots=True)
class Row:
    """One key."""

    key: Key
    value: Plain
    """None: not set, the comment of the field says who decides then."""
    origin: str


def rows(loaded: Loaded) -> list[Row]:
    """Every key of the settings, tables one after the other."""
    found = list(_rows(("daemon",), DAEMON, loaded.settings, loaded.origins))
    found += _rows(("limits",), LIMITS, loaded.settings.limits, loaded.origins)
    found += _rows(("access",), ACCESS, loaded.settings.access, loaded.origins)
    found += _rows(("per_user",), PER_USER, loaded.settings.per_user, loaded.origins)
    for spec in loaded.settings.models:
        found += _rows(("models", spec.name), MODEL, spec, loaded.origins)
    return found


def _rows(prefix: Key, options: Mapping[str, Option], owner: object, origins: Mapping[Key, str]) -> Iterator[Row]:
    for name, option in options.items():
        key = (*prefix, name)
        yield Row(key, _plain(getattr(owner, option.field)), origins.get(key, DEFAULT))


def _plain(value: object) -> Plain:
    """A value as a configuration file would hold it."""
    match value:
        case Enum():
            return str(value.value)
        case WorkerBounds():
            return {"min": value.min, "max": value.max}
        case float():
            if math.isinf(value):
                return -1
            return int(value) if value.is_integer() else value
        case tuple():
            return [_plain(one) for one in value]
        case Mapping():
            return {str(key): _plain(one) for key, one in value.items()}
        case str() | int() | None:
            return value
        case _:
            raise AssertionError(f"a setting of type {type(value).__name__} has no plain form: bug")


def as_toml(found: Iterable[Row]) -> str:
    """The rows as a configuration file, each with its origin as a comment."""
    lines: list[str] = []
    table: Key = ()
    for row in found:
        if row.key[:-1] != table:
            table = row.key[:-1]
            lines += ["", f"[{dotted(table)}]"] if lines else [f"[{dotted(table)}]"]
        unset = row.value is None or row.value == []
        line = f"# {row.key[-1]} is not set" if unset else f"{row.key[-1]} = {_toml(row.value)}"
        lines.append(f"{line:<{_COMMENT_COLUMN}}  # {row.origin}")
    return "\n".join(lines)


def _toml(value: Plain) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            inside = ", ".join(f"{dotted((key,))} = {_toml(one)}" for key, one in value.items())
            return f"{{ {inside} }}" if inside else "{}"
        case list():
            return f"[{', '.join(_toml(one) for one in value)}]"
        case str():
            # JSON's escapes are TOML's but for DEL, which JSON leaves as it is.
            return json.dumps(value).replace("\x7f", "\\u007F")
        case _:
            return str(value)
