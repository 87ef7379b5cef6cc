"""From a request's pooled rows to the numbers of its answer: head, length, dimensions, precision, in this order.

The order is that of sentence-transformers: dense layers, the model's own normalisation, fewer dimensions, unit length,
precision. Part by part, so that a large answer is held once and not at every stage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embeddaemon.errors import BadOutput, InvalidInput
from embeddaemon.models.card import ModelCard
from embeddaemon.protocol.messages import Embed
from embeddaemon.protocol.numbers import Numbers, written
from embeddaemon.protocol.precisions import PRECISIONS
from embeddaemon.workers.engines import LoadedModel, Rows
from embeddaemon.workers.ranges import Prose, Ranges

_PART_TEXTS = 256
_SMALLEST_NORM = np.float32(1e-12)
"""A cut vector may be all zero although the whole one is not."""
_LAYER_NORM_EPSILON = np.float32(1e-5)
"""As torch has it, and so the cards of models that are cut after a layer norm."""


@dataclass(frozen=True, slots=True)
class Output:
    """What an answer's frames are made of."""

    precision: str
    dim: int
    numbers: Numbers
    """(texts, columns of the precision)"""
    ranges: Rows | None = None
    """(2, dim): what the lowest and the highest number stand for, where the precision needs that."""


class Outputs:
    """Makes them for one model. Any thread may ask."""

    def __init__(self, model: LoadedModel, card: ModelCard) -> None:
        self._model = model
        self._card = card
        self._ranges = Ranges(self._shaped)

    def of(self, pooled: Rows, request: Embed, prose: Prose) -> Output:
        """``pooled`` (texts, pooled_dim) may be changed in place; ``prose`` gives that of known texts, if it is needed.

        Raises BadOutput, InvalidInput, and whatever the engine raises.
        """
        precision = PRECISIONS[request.precision]
        dim = request.dimensions or self._card.dim
        ranges = self._ranges.find(request, dim, prose) if precision.has_ranges else None
        if len(pooled) <= _PART_TEXTS:
            numbers = written(self._shaped(pooled, request), precision, ranges)
        else:
            numbers = np.empty((len(pooled), precision.columns(dim)), precision.dtype)
            for start in range(0, len(pooled), _PART_TEXTS):
                part = slice(start, start + _PART_TEXTS)
                numbers[part] = written(self._shaped(pooled[part], request), precision, ranges)
        if request.precision == "float16" and not np.isfinite(numbers).all():
            raise InvalidInput("precision float16 holds values up to 65504, which these vectors exceed: normalize them")
        return Output(request.precision, dim, numbers, ranges)

    def _shaped(self, pooled: Rows, request: Embed) -> Rows:
        vectors = self._model.project(pooled, request.dimensions or self._card.dim)
        return shape_rows(vectors, request, self._card)


def shape_rows(rows: Rows, request: Embed, card: ModelCard) -> Rows:
    """Whole vectors to what was asked for: the model's own normalisation, then fewer dimensions, then unit length.

    ``rows`` is the caller's to give away: it may be changed in place. Raises BadOutput.
    """
    norms = _norms(rows)
    if not (norms.min(initial=1) > 0 and norms.max(initial=1) < np.inf):  # of numbers and nan, nan is both
        good = np.isfinite(norms) & (norms > 0)
        raise BadOutput(
            f"{card.name} computed vectors that are not finite or all zero, {int((~good).sum())} of {len(rows)}; "
            "the texts, or the model's precision, are too much for it"
        )
    dim = request.dimensions or card.dim
    cut = dim < rows.shape[1]
    if card.normalize or (request.normalize and not cut):
        rows /= norms[:, None]
    if cut:
        if card.cut_after_layer_norm:
            rows = _layer_norm(rows)
        rows = np.ascontiguousarray(rows[:, :dim])
        if request.normalize:
            rows /= np.maximum(_norms(rows), _SMALLEST_NORM)[:, None]
    return rows


def _norms(rows: Rows) -> Rows:
    norms: Rows = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return norms


def _layer_norm(rows: Rows) -> Rows:
    """Each row with mean 0 and deviation 1."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    variances = np.einsum("ij,ij->i", rows, rows) / np.float32(rows.shape[1])
    normed: Rows = rows / np.sqrt(variances + _LAYER_NORM_EPSILON)[:, None]
    return normed
