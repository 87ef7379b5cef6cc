"""Which values the 256 numbers of int8 and uint8 stand for, per dimension.

sentence-transformers takes the smallest and the largest value of the vectors at hand. Then a text's numbers would
depend on the texts that came with it, and numbers of two calls could not be compared. Here they follow from the model,
the dimensions and the normalisation alone: found once, on fixed prose, when they are first asked for, and sent along.

A range reaches four deviations to both sides of the mean, which is about where 256 even steps lose least of what is
normally distributed (J. Max, "Quantizing for minimum distortion", 1960), and as far as the prose itself reaches. Its
ends are rounded outward to a coarse grid, so that the last bits of another processor change nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from embeddaemon.models.card import ModelCard
from embeddaemon.protocol.messages import Embed
from embeddaemon.workers import packing
from embeddaemon.workers.engines import LoadedModel, Rows

Prose = Callable[[], Rows]
"""Pooled rows (texts, pooled_dim) of known texts."""

_FILE = Path(__file__).parent / "engines" / "torch_engine" / "int8" / "calibration.txt"
_TEXTS = 64
_TEXT_TOKENS = 64
_ROW_TOKENS = 256
_DEVIATIONS = 4.0


class Ranges:
    """Those of one model, each found when it is first needed. Any thread may ask; one of them computes."""

    def __init__(self, shaped: Callable[[Rows, Embed], Rows]) -> None:
        """``shaped`` gives the vectors, in float32, that a request asks for, of pooled rows that it may change."""
        self._shaped = shaped
        self._lock = threading.Lock()
        self._pooled: Rows | None = None
        self._found: dict[tuple[int, bool], Rows] = {}

    def find(self, request: Embed, dim: int, prose: Prose) -> Rows:
        """float32 (2, dim)."""
        key = (dim, request.normalize)
        with self._lock:
            if key not in self._found:
                if self._pooled is None:
                    self._pooled = prose()
                self._found[key] = ranges_of(self._shaped(self._pooled.copy(), request))
            return self._found[key]


def ranges_of(vectors: Rows) -> Rows:
    """Lowest and highest value, (2, dim), to tell apart 256 of, in each dimension of vectors (texts, dim)."""
    exact = vectors.astype(np.float64)
    mean, reach = exact.mean(axis=0), _DEVIATIONS * exact.std(axis=0)
    low, high = np.minimum(exact.min(axis=0), mean - reach), np.maximum(exact.max(axis=0), mean + reach)
    # An eighth of what values usually are, as a power of two. A quarter is added so that unit vectors, whose dimensions
    # are mostly powers of two, are nowhere near where one grid ends and the next begins.
    usual = np.sqrt(np.mean(exact * exact))
    grid = 2.0 ** (np.floor(np.log2(usual) + 0.25) - 3)
    first = np.floor(low / grid)
    last = np.maximum(np.ceil(high / grid), first + 1)  # a dimension that never changes has a range too
    ranges: Rows = np.stack([first, last]).astype(np.float32) * np.float32(grid)
    return ranges


def pooled_prose(model: LoadedModel, card: ModelCard, after_each: Callable[[], None]) -> Rows:
    """(texts, pooled_dim) of texts of our own, always in the same rows; ``after_each`` forward pass is called."""
    texts = _FILE.read_text(encoding="utf-8").splitlines()[:_TEXTS]
    encoded = model.tokenize(texts, prompt="", max_tokens=min(card.max_tokens, _TEXT_TOKENS))
    pooled = np.empty((len(texts), card.pooled_dim), dtype=np.float32)
    for row in packing.plan([len(one.ids) for one in encoded], _ROW_TOKENS):
        ids = np.concatenate([encoded[index].ids for index in row.indices], dtype=np.int32)
        lengths = np.array([len(encoded[index].ids) for index in row.indices], dtype=np.int32)
        pooled[list(row.indices)] = model.forward(ids, lengths, None)
        after_each()
    return pooled
