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


class Journal:
    """Owns the mapping. Each slot is for one thread at a time."""

    def __init__(self, descriptor: int | None, *, slots: int, capacity: int) -> None:
        """``descriptor`` of an empty file that is shared with the supervisor; closed here. ``capacity``: records."""
        self._capacity = capacity
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
        kept = records[: self._capacity]
        offset = journal.slot_offset(slot, self._capacity)
        start = offset + journal.SLOT.size
        self.end(slot)  # the old number must not stand beside new records
        self._map[start : start + len(kept) * journal.RECORD.size] = b"".join(kept)
        self._map[offset:start] = journal.SLOT.pack(time.monotonic(), len(kept))

    def end(self, slot: int) -> None:
        """It is through with them."""
        if self._map is not None:
            offset = journal.slot_offset(slot, self._capacity)
            self._map[offset : offset + journal.SLOT.size] = journal.SLOT.pack(0.0, 0)


def record(serial: int, digest: bytes) -> bytes:
    """One text of one request, as it stands in the journal."""
    return journal.RECORD.pack(serial, digest)
