"""Answers kept for requests that come again: the same bytes asked of the same weights. Bounded, off by default. Pure.

Single queries are what repeats, so only small requests are kept; the least recently used goes first. An answer is found
without a worker, also while the model is loading or was evicted.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace

from embeddaemon.protocol.messages import Embed, Timings, Vectors

CACHE = "cache"
"""Under which its lease stands in the governor."""

MAX_CACHED_BODY_BYTES = 4096
"""Of a request that is looked for: a query or two, not a piece of a corpus."""

MAX_CACHED_ANSWER_BYTES = 64 * 1024
"""Of the vectors of one answer, with their ranges."""

ENTRY_BYTES = 1024
"""What an entry takes beside its vectors: keys, header, and the tables that hold them. Rather too much."""

_DIGEST_BYTES = 16


def digest(body: bytes | memoryview) -> bytes:
    """What stands for a body: two bodies with the same one do not happen."""
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


def key(weights: bytes, request: Embed, body: bytes) -> bytes:
    """What stands for a request: of which weights, what of its options decides on the vectors, which body."""
    options = (
        request.task,
        request.prompt,
        request.dimensions,
        request.normalize,
        request.truncate,
        request.precision,
        request.lenient,
    )
    return digest(weights + body + repr(options).encode())


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer: its header as the worker sent it, its vectors, and their ranges where they have some."""

    header: Vectors
    frames: tuple[bytes, ...]

    @property
    def array_bytes(self) -> int:
        return sum(map(len, self.frames))

    @property
    def size(self) -> int:
        return self.array_bytes + ENTRY_BYTES

    def header_for(self, request: Embed) -> Vectors:
        """The header for who asks now."""
        return replace(self.header, id=request.id, timings=Timings(cached=True))


class Cache:
    """Answers by key, at most ``limit_bytes`` of them; 0 keeps none."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Nothing of before is to be answered any more."""
        self._kept.clear()
        self.used_bytes = 0

    def find(self, wanted: bytes) -> Kept | None:
        """The answer that is kept under a key."""
        kept = self._kept.get(wanted)
        if kept is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(wanted)
        return kept

    def keep(self, wanted: bytes, kept: Kept) -> None:
        """Keep an answer; older ones make room."""
        if kept.array_bytes > MAX_CACHED_ANSWER_BYTES or kept.size > self.limit_bytes:
            return
        if (before := self._kept.pop(wanted, None)) is not None:
            self.used_bytes -= before.size
        self._kept[wanted] = kept
        self.used_bytes += kept.size
        while self.used_bytes > self.limit_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.used_bytes -= oldest.size
