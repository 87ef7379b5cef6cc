"""msgpack maps read field by field: bounded unpacking, and a reader that checks every type and leaves nothing unread.

Used by every codec of this package; knows no message.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import msgpack

from embeddaemon.errors import ProtocolError
from embeddaemon.protocol.limits import MAX_HEADER_BYTES, MAX_HEADER_MAP

T = TypeVar("T")

_MISSING = object()
_TEXT = frozenset({str})


_KEPT_BYTES = 64 * 1024
"""A packer whose buffer had to hold more is not kept."""

_packers: list[msgpack.Packer] = []
"""Those that nobody uses now: making one takes as long as packing a header. Whoever packs takes one out, so neither
another thread nor a finalizer that runs meanwhile gets the same."""


def pack(value: Mapping[str, Any]) -> bytes:
    """A map as msgpack. Raises UnicodeEncodeError for text with lone surrogates."""
    try:
        packer = _packers.pop()
    except IndexError:
        packer = msgpack.Packer(use_bin_type=True, buf_size=_KEPT_BYTES)
    packed: bytes = packer.pack(value)
    if len(packed) <= _KEPT_BYTES:
        _packers.append(packer)
    return packed


def _refuse_ext(code: int, _data: bytes) -> object:
    raise ValueError(f"msgpack extension type {code} is not used here")


def unpack(
    frame: bytes | memoryview,
    *,
    max_bytes: int = MAX_HEADER_BYTES,
    max_array: int = MAX_HEADER_MAP * 64,
    max_map: int = MAX_HEADER_MAP,
    what: str = "header",
) -> dict[str, Any]:
    """One frame as a map with text keys. Raises ProtocolError for anything else, whatever the bytes are."""
    size = len(frame)
    if size > max_bytes:
        raise ProtocolError(f"{what} has {size} bytes, the limit is {max_bytes}")
    try:
        value = msgpack.unpackb(
            frame,
            raw=False,
            strict_map_key=True,
            ext_hook=_refuse_ext,
            max_array_len=max_array,
            max_map_len=max_map,
            max_str_len=max_bytes,
            max_bin_len=max_bytes,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"{what} is not msgpack as we use it: {type(error).__name__}: {error}") from error
    if not isinstance(value, dict) or not set(map(type, value)) <= _TEXT:
        raise ProtocolError(f"{what} is not a map with text keys")
    return value


class Fields:
    """Takes the fields of one map by name and type; ``end()`` refuses what nobody took."""

    def __init__(self, values: Mapping[str, Any], what: str) -> None:
        self._values = dict(values)
        self._what = what

    def _wrong(self, key: str, value: object, wanted: str) -> ProtocolError:
        if value is _MISSING:
            return ProtocolError(f"{self._what}: {key!r} is missing")
        return ProtocolError(f"{self._what}: {key!r} must be {wanted}, not {type(value).__name__}")

    # Every request is read by these three times: one call for each field. msgpack makes no subclasses, and a boolean is
    # no integer here.

    def integer(self, key: str, *, default: object = _MISSING, low: int = 0, high: int = 2**63 - 1) -> int:
        value = self._values.pop(key, default)
        if type(value) is not int:
            raise self._wrong(key, value, "an integer")
        if not low <= value <= high:
            raise ProtocolError(f"{self._what}: {key!r} is {value}, allowed are {low} to {high}")
        return value

    def integer_or_none(self, key: str, *, low: int = 0, high: int = 2**63 - 1) -> int | None:
        return None if self.is_absent(key) else self.integer(key, low=low, high=high)

    def text(self, key: str, *, default: object = _MISSING) -> str:
        value = self._values.pop(key, default)
        if type(value) is str:
            return value
        raise self._wrong(key, value, "text")

    def text_or_none(self, key: str) -> str | None:
        value = self._values.pop(key, None)
        if value is None or type(value) is str:
            return value
        raise self._wrong(key, value, "text")

    def boolean(self, key: str, *, default: object = _MISSING) -> bool:
        value = self._values.pop(key, default)
        if type(value) is bool:
            return value
        raise self._wrong(key, value, "true or false")

    def _take(self, key: str, default: object, kind: type[T], wanted: str) -> T:
        value = self._values.pop(key, default)
        if type(value) is kind:
            return value
        raise self._wrong(key, value, wanted)

    def number(self, key: str, *, default: object = _MISSING) -> float:
        value = self._values.pop(key, default)
        if type(value) is int or type(value) is float:
            return float(value)
        raise self._wrong(key, value, "a number")

    def mapping(self, key: str, *, default: object = _MISSING) -> dict[str, Any]:
        value: dict[str, Any] = self._take(key, default, dict, "a map")
        return value

    def mapping_or_none(self, key: str) -> dict[str, Any] | None:
        return None if self.is_absent(key) else self.mapping(key)

    def sequence(self, key: str, *, default: object = _MISSING) -> list[Any]:
        value: list[Any] = self._take(key, default, list, "an array")
        return value

    def integers(self, key: str, *, default: object = _MISSING) -> tuple[int, ...]:
        values = self.sequence(key, default=default)
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            raise self._wrong(key, values, "an array of integers")
        return tuple(values)

    def texts(self, key: str, *, default: object = _MISSING) -> tuple[str, ...]:
        values = self.sequence(key, default=default)
        if not all(isinstance(value, str) for value in values):
            raise self._wrong(key, values, "an array of texts")
        return tuple(values)

    def maps(self, key: str, *, default: object = _MISSING) -> tuple[dict[str, Any], ...]:
        values = self.sequence(key, default=default)
        if not all(isinstance(value, dict) for value in values):
            raise self._wrong(key, values, "an array of maps")
        return tuple(values)

    def chosen(self, key: str, allowed: Collection[str], *, default: object = _MISSING) -> str:
        value = self.text(key, default=default)
        if value not in allowed:
            raise ProtocolError(f"{self._what}: {key!r} is {value!r}, allowed are {', '.join(allowed)}")
        return value

    def is_absent(self, key: str) -> bool:
        """Whether the field is missing or null; a null is taken."""
        if self._values.get(key) is not None:
            return False
        self._values.pop(key, None)
        return True

    def end(self) -> None:
        """Every field was read; a field that nobody knows is an error, not silence."""
        if self._values:
            raise ProtocolError(f"{self._what}: unknown field {', '.join(sorted(map(repr, self._values)))}")
