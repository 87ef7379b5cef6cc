"""A worker's journal: which texts it works on right now, in memory that outlives it. Layout and digests. Pure.

Each thread of a worker has a *slot* and writes there, before it begins, the texts that it is about to tokenize or to
compute: a *turn*. The worker maps the journal shared with a file that the supervisor holds; what is written there is
there after any death. The records come first and their number last, so a turn is there whole or not at all.

    header   magic (4 bytes), slots (u32), most records in a slot (u32), 4 bytes free
    slot     when the turn began (f64, monotonic seconds), records (u32), 4 bytes free, then the records
    record   serial of the request (u64), digest of the text (16 bytes)

All numbers are little endian. Written by workers/journal.py, read after a death by supervisor/processes/journals.py.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass

DIGEST_BYTES = 16
MAGIC = b"EDJ1"

WHOLE_REQUEST = bytes(DIGEST_BYTES)
"""Stands for all texts of a request while its body was not decoded yet."""

HEADER = struct.Struct("<4sII4x")
SLOT = struct.Struct("<dI4x")
RECORD = struct.Struct(f"<Q{DIGEST_BYTES}s")

MOST_RECORDS_READ = 1 << 17
"""Of one slot: whoever wrote it may have been out of its mind when it died."""
_MOST_SLOTS = 4096


@dataclass(frozen=True, slots=True)
class Record:
    """One text of one request."""

    serial: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Turn:
    """What one thread was at."""

    began_at: float
    """Monotonic seconds; one clock for all processes of a machine."""
    records: tuple[Record, ...]


def digest_of_text(text: str, prompt: str) -> bytes:
    """What stands for a text with what is put before it. Lone surrogates do not get this far."""
    return _digest(b"t", prompt.encode(), text.encode())


def digest_of_ids(ids: bytes) -> bytes:
    """The same of a text that came as token ids, as the bytes of int32 numbers."""
    return _digest(b"i", b"", ids)


def _digest(kind: bytes, before: bytes, content: bytes) -> bytes:
    hashed = hashlib.blake2b(content, digest_size=DIGEST_BYTES, person=kind)
    if before:
        hashed.update(len(before).to_bytes(8, "little"))
        hashed.update(before)
    return hashed.digest()


def slot_bytes(capacity: int) -> int:
    """Of one slot with room for so many records."""
    return SLOT.size + capacity * RECORD.size


def slot_offset(slot: int, capacity: int) -> int:
    """Where it begins."""
    return HEADER.size + slot * slot_bytes(capacity)


def file_bytes(slots: int, capacity: int) -> int:
    """Of the whole journal. What was never written to takes no memory."""
    return slot_offset(slots, capacity)


def read_turns(read: Callable[[int, int], bytes]) -> tuple[Turn, ...] | None:
    """The turns of a journal; ``read(offset, size)`` gives its bytes, fewer at its end. None: nobody wrote it."""
    header = read(0, HEADER.size)
    if len(header) < HEADER.size:
        return None
    magic, slots, capacity = HEADER.unpack(header)
    if magic != MAGIC or slots > _MOST_SLOTS:
        return None
    turns = (_read_turn(read, slot_offset(slot, capacity), capacity) for slot in range(slots))
    return tuple(turn for turn in turns if turn is not None)


def _read_turn(read: Callable[[int, int], bytes], offset: int, capacity: int) -> Turn | None:
    header = read(offset, SLOT.size)
    if len(header) < SLOT.size:
        return None
    began_at, count = SLOT.unpack(header)
    written = read(offset + SLOT.size, min(count, capacity, MOST_RECORDS_READ) * RECORD.size)
    whole = written[: len(written) // RECORD.size * RECORD.size]
    records = tuple(Record(serial, digest) for serial, digest in RECORD.iter_unpack(whole))
    return Turn(began_at, records) if records else None
