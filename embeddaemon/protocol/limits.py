"""The limits that both sides enforce: announced in HELLO, kept by the client sending and the daemon receiving."""

from __future__ import annotations

from dataclasses import dataclass

VERSION = 1
"""Protocol version. Raised when an old peer would misread a new one."""

MAX_HEADER_BYTES = 64 * 1024
"""A header is a small map; anything larger is not one."""

MAX_HEADER_MAP = 64
"""Entries of a header map. msgpack amplifies (an empty map costs 73 times its byte), so counts are bounded too."""

MAX_DIMENSIONS = 1 << 20
"""That a request may ask for: far beyond every model."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may carry. Sizes in bytes of UTF-8 or of the frame."""

    max_texts: int = 2048
    """Texts in one request. The client splits larger calls."""
    max_text_bytes: int = 1024 * 1024
    """One text: far beyond any model's maximum length, small enough to tokenize without notice."""
    max_body_bytes: int = 8 * 1024 * 1024
    """The body frame: also what a client can make the supervisor hold per request."""
    max_ids: int = 131_072
    """Token ids in one text given as ids."""
