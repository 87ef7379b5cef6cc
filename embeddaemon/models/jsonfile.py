"""The JSON files of a model folder, every field's type checked: what does not fit is ``CorruptModel`` with the path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from embeddaemon.errors import CorruptModel
from embeddaemon.models.opening import checked_bytes
from embeddaemon.models.weights import json_object

MAX_JSON_BYTES = 8 * 1024 * 1024
"""Configurations are a few kilobytes; tokenizers, which are larger, are not read here."""


class JsonFile:
    """One JSON object of a folder; empty where the file is absent. Fields are taken by type."""

    def __init__(self, path: Path, values: Mapping[str, object], *, is_present: bool = True) -> None:
        self.path = path
        self.values = values
        self.is_present = is_present

    def _wrong(self, key: str, wanted: str) -> CorruptModel:
        return CorruptModel(f"{self.path}: {key!r} must be {wanted}, not {str(self.values[key])[:80]!r}")

    def integer(self, key: str) -> int | None:
        """A non-negative whole number, None where it is absent or null; ``512.0`` counts as one."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._wrong(key, "a whole number")
        return value

    def size(self, key: str) -> int:
        """A positive whole number that must be there."""
        value = self.integer(key)
        if not value:
            raise CorruptModel(f"{self.path}: {key!r} is missing or 0")
        return value

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, "text")
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of text, or one text as a list of one; empty where it is absent."""
        value = self.values.get(key)
        if value is None:
            return ()
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, "a list of text")
        return tuple(value)

    def mapping(self, key: str) -> Mapping[str, object]:
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(key, "a map")
        return value

    def section(self, key: str) -> JsonFile:
        """The map under ``key`` with the same checks; empty where it is absent."""
        return JsonFile(self.path, self.mapping(key), is_present=key in self.values)


def read_bytes(path: Path) -> bytes | None:
    """A small file's bytes, None where it is absent. Raises CorruptModel when it is too large or cannot be read."""
    try:
        return checked_bytes(path, MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CorruptModel(f"{path} cannot be read: {error.strerror or error}") from error


def read_json(path: Path) -> JsonFile:
    """A folder's JSON object; empty where there is no such file."""
    raw = read_bytes(path)
    return JsonFile(path, {}, is_present=False) if raw is None else JsonFile(path, json_object(raw, str(path)))
