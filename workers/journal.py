"""Writes the worker's journal: what each of its threads is about to work on, before it begins. I/O: a shared mapping.

Layout and purpose: protocol/journal.py. Without a file from the supervisor nothing is written, and a death leaves all
that the worker held under suspicion.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence

from embeddaemon.protocol import journal

_NOTHING = journal.SLOT.pack(0.0, 0)
"""In a slot whose thread works on nothing."""


class Journal:
    """Owns the mapping. Each slot is for one thread at a time."""

    def __init__(self, descriptor: int | None, *, slots: int, capacity: int) -> None:
        """``descriptor`` of an empty file that is shared with the supervisor; closed here. ``capacity``: records."""
        self._capacity = capacity
        self._offsets = [journal.slot_offset(slot, capacity) for slot in range(slots)]
        self._map: mmap.mmap | None = None
        if descriptor is None:
            return
        size = journal.file_bytes(slots, capacity)
        os.ftruncate(descriptor, size)
        self._map = mmap.mmap(descriptor, size)
        os.close(descriptor)
        self._map[: journal.HEADER.size] = journal.HEADER.pack(journal.MAGIC, slots, capacity)

    def begin(self, slot: int, records: Sequence[bytes]) -> None:
        """From now on the thread of this slot works on these; each is what ``record`` gave."""
        if self._map is None:
            return
        kept = b"".join(records[: self._capacity])
        offset = self._offsets[slot]
        start = offset + journal.SLOT.size
        self._map[offset:start] = _NOTHING  # the old number must not stand beside new records
        self._map[start : start + len(kept)] = kept
        self._map[offset:start] = journal.SLOT.pack(time.monotonic(), len(kept) // journal.RECORD.size)

    def end(self, slot: int) -> None:
        """It is through with them."""
        if self._map is not None:
            offset = self._offsets[slot]
            self._map[offset : offset + journal.SLOT.size] = _NOTHING


def record(serial: int, digest: bytes) -> bytes:
    """One text of one request, as it stands in the journal."""
    return journal.RECORD.pack(serial, digest)
