"""What was learned about footprints as the text of a file, and back: JSON, every field checked. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields

from embeddaemon.governor.learned import LARGEST_BYTES, MOST_TOKENS, SMALLEST_BYTES, Key, Learned, Measured

_FORMAT = 2
_MOST_THREADS = 2**20
_LONGEST_NAME = 128


class _Wrong(Exception):
    """Why a text cannot be used."""


def to_text(learned: Learned) -> str:
    """The whole file: JSON, the entry that was noted least recently first."""
    entries = []
    for key in learned:
        measured = learned.get(key)
        assert measured is not None, "a key without numbers: bug"
        entries.append({**asdict(key), **asdict(measured)})
    return json.dumps({"format": _FORMAT, "program": learned.program, "entries": entries}, indent=1) + "\n"


def from_text(text: str, program: str) -> tuple[Learned, str | None]:
    """What a file says, and None; or nothing learned, and why the file is not used.

    Half of a file is not used: who wrote nonsense once may have written plausible nonsense beside it.
    """
    try:
        return _parsed(json.loads(text), program), None
    except (ValueError, RecursionError, _Wrong) as error:
        return Learned(program), str(error)[:200] or type(error).__name__


def _parsed(document: object, program: str) -> Learned:
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise _Wrong(f"it is not of format {_FORMAT}")
    if document.get("program") != program:
        raise _Wrong(f"it is of {str(document.get('program'))[:_LONGEST_NAME]}, this is {program}")
    entries = document.get("entries")
    if not isinstance(entries, list):
        raise _Wrong("it has no list of entries")
    learned = Learned(program)
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {each.name for each in (*fields(Key), *fields(Measured))}:
            raise _Wrong("an entry has not exactly the fields that it must have")
        learned.put(_key_of(entry), _measured_of(entry))
    return learned


def _key_of(entry: Mapping[str, object]) -> Key:
    return Key(
        weights_digest=_name(entry, "weights_digest"),
        precision=_name(entry, "precision"),
        device=_name(entry, "device"),
        start_method=_name(entry, "start_method"),
        threads=_count(entry, "threads", 0, _MOST_THREADS),
        token_budget=_count(entry, "token_budget", 1, MOST_TOKENS),
        stream_tokens=_count(entry, "stream_tokens", 0, MOST_TOKENS),
        element_bytes=_count(entry, "element_bytes", 0, 8),
    )


def _measured_of(entry: Mapping[str, object]) -> Measured:
    return Measured(
        template_peak_bytes=_bytes(entry, "template_peak_bytes"),
        template_bytes=_bytes(entry, "template_bytes"),
        worker_peak_bytes=_bytes(entry, "worker_peak_bytes"),
        worker_bytes=_bytes(entry, "worker_bytes"),
        device_peak_bytes=_bytes(entry, "device_peak_bytes"),
        tokens=_count(entry, "tokens", 0, MOST_TOKENS),
    )


def _name(entry: Mapping[str, object], field: str) -> str:
    value = entry[field]
    if not isinstance(value, str) or len(value) > _LONGEST_NAME:
        raise _Wrong(f"{field} is {str(value)[:_LONGEST_NAME]!r}, no short text")
    return value


def _bytes(entry: Mapping[str, object], field: str) -> int:
    """What may have been measured; 0 stands for what was not."""
    count = _count(entry, field, 0, LARGEST_BYTES)
    if 0 < count < SMALLEST_BYTES:
        raise _Wrong(f"{field} is {count}, allowed are 0 and {SMALLEST_BYTES} to {LARGEST_BYTES}")
    return count


def _count(entry: Mapping[str, object], field: str, low: int, high: int) -> int:
    value = entry[field]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _Wrong(f"{field} is {str(value)[:_LONGEST_NAME]}, allowed are {low} to {high}")
    return value
