"""Numbers and maps of a published config.json that must be there: checked, since no forward here assumes them.

Options that are not served at all are refused with the card (models/options.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from embeddaemon.errors import CorruptModel


def number(config: Mapping[str, object], key: str) -> float:
    """A positive number that must be there. Raises CorruptModel."""
    value = config.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise CorruptModel(f"config.json: {key!r} must be a positive number, not {str(value)[:80]!r}")
    return float(value)


def whole(config: Mapping[str, object], key: str) -> int:
    """A positive whole number that must be there; ``512.0`` counts as one. Raises CorruptModel."""
    value = number(config, key)
    if not value.is_integer():
        raise CorruptModel(f"config.json: {key!r} must be a whole number, not {value}")
    return int(value)


def section(config: Mapping[str, object], key: str) -> Mapping[str, object]:
    """A map, empty where it is absent. Raises CorruptModel."""
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise CorruptModel(f"config.json: {key!r} must be a map, not {str(value)[:80]!r}")
    return value or {}
