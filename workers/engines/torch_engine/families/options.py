"""Options of a published config.json that a family's forward here does not have: refused by name and value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embeddaemon.errors import CorruptModel, UnsupportedModel


def refuse_others(config: Mapping[str, object], served: Mapping[str, Sequence[object]]) -> None:
    """``served``: by key, the values that are computed right, the usual one first; an absent key is that one.

    Raises UnsupportedModel, which names key and value.
    """
    for key, values in served.items():
        value = config.get(key, values[0])
        if not any(type(value) is type(known) and value == known for known in values):
            raise UnsupportedModel(
                f"config.json: {key} is {str(value)[:80]!r}, which is not served; "
                f"served is {' or '.join(str(known) for known in values)}"
            )


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
