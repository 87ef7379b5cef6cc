"""The configuration files: which ones there are, and their TOML as raw values. Checks the shape, not the values."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from embeddaemon.config.given import Given, Key, dotted, shown
from embeddaemon.config.kinds import did_you_mean
from embeddaemon.config.options import MODEL, PLAIN_TABLES, TABLES, Option
from embeddaemon.errors import ConfigError

FILE_NAME = "embeddaemon.toml"
SYSTEM_FILE = Path("/etc/embeddaemon") / FILE_NAME
MAX_FILE_BYTES = 1024 * 1024
"""Of a configuration file: thousands of models fit; a wrong path (a weights file, a device) does not."""


def user_file(environment: Mapping[str, str]) -> Path | None:
    """Where a user keeps his own configuration; None without a home."""
    if folder := environment.get("XDG_CONFIG_HOME"):
        return Path(folder) / "embeddaemon" / FILE_NAME
    if home := environment.get("HOME"):
        return Path(home) / ".config" / "embeddaemon" / FILE_NAME
    return None


def read_if_there(path: Path) -> dict[Key, Given] | None:
    """The values of a file in its usual place; None when there is none."""
    try:
        return read(path) if path.exists() else None
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def read(path: Path) -> dict[Key, Given]:
    """The values of a file. Raises ConfigError for what cannot be read, is not TOML or has keys that nobody knows."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"configuration file {str(path)!r} cannot be read: {reason}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(
            f"configuration file {str(path)!r} is larger than {MAX_FILE_BYTES} bytes: is it the right file?"
        )
    try:
        tables = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}): is it the right file?") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or numbers and nesting beyond what Python reads
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    return flatten(tables, str(path), path.absolute().parent)


def flatten(tables: Mapping[str, object], origin: str, folder: Path) -> dict[Key, Given]:
    """The tables of a file as one flat map of keys."""
    values: dict[Key, Given] = {}
    for name, table in tables.items():
        if name not in TABLES:
            raise ConfigError(f"{origin}: unknown {_what(table)} {shown(name)}: {_hint_for_table(name)}")
        if not isinstance(table, dict):
            raise ConfigError(f"{origin}: {name} = {shown(table)}: must be a table, [{name}]")
        if name == "models":
            for model, keys in table.items():
                if not isinstance(keys, dict):
                    raise ConfigError(
                        f"{origin}: {dotted(('models', model))} = {shown(keys)}: must be a table, "
                        f'[models.NAME] with source = "…"'
                    )
                values |= _table(("models", model), keys, MODEL, origin, folder)
        else:
            values |= _table((name,), table, PLAIN_TABLES[name], origin, folder)
    return values


def _table(
    prefix: Key, table: Mapping[str, object], options: Mapping[str, Option], origin: str, folder: Path
) -> dict[Key, Given]:
    for key in table:
        if key not in options:
            raise ConfigError(
                f"{origin}: unknown key {dotted((*prefix, key))} = {shown(table[key])}: {did_you_mean(key, options)}",
                details={"origin": origin, "key": dotted((*prefix, key))},
            )
    if prefix[0] == "models" and not table:
        raise ConfigError(
            f'{origin}: {dotted(prefix)} is empty: a model needs a source, as source = "path:/models/mini"'
        )
    return {(*prefix, key): Given(value, origin, folder) for key, value in table.items()}


def _what(table: object) -> str:
    return "table" if isinstance(table, dict) else "key"


def _hint_for_table(name: str) -> str:
    for table, options in (*PLAIN_TABLES.items(), ("models.NAME", MODEL)):
        if name in options:
            return f"it belongs into the table [{table}]"
    return did_you_mean(name, TABLES)
