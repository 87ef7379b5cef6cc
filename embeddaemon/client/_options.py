"""The options of the methods as types, for the signatures by which a type checker tells float32 from other numbers."""

from __future__ import annotations

from typing import TypedDict

from embeddaemon.client._answers import OnRanges, OnRefused, OnTruncated
from embeddaemon.client._progress import Progress


class _Options(TypedDict, total=False):
    """Of all that embeds, but for the precision."""

    model: str | None
    dimensions: int | None
    normalize: bool
    truncate: bool
    lane: str | None
    timeout: float | None
    on_poisoned: str


class IdOptions(_Options, total=False):
    """Of ``embed_ids``."""

    on_refused: OnRefused | None


class TextOptions(_Options, total=False):
    """Of all that embeds texts."""

    task: str | None
    prompt: str | None


class EmbedOptions(TextOptions, total=False):
    """Of ``embed``."""

    progress: Progress


class StreamOptions(TextOptions, total=False):
    """Of ``embed_stream``."""

    on_truncated: OnTruncated | None
    on_refused: OnRefused | None
    on_ranges: OnRanges | None
