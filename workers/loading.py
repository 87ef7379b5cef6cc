"""Loading one model and proving that it works, for templates and for workers that load for themselves.

What can go wrong ends as one of our errors: ``load_error`` makes one of whatever an engine raised.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embeddaemon.errors import EmbedDaemonError, FailedLoad, chain
from embeddaemon.models.card import ModelCard
from embeddaemon.models.fileset import check_unchanged
from embeddaemon.models.order import LoadOrder
from embeddaemon.workers.engines import LoadedModel, Rows
from embeddaemon.workers.measure import Meter
from embeddaemon.workers.program import EngineProgram

_TEXTS = ("a", "a few words", "a sentence of some more words than the others have")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that has computed its first vectors."""

    model: LoadedModel
    order: LoadOrder
    facts: dict[str, Any]
    seconds: float
    peak_bytes: int
    """The most that the process had for itself while loading, pages of the files that it read included."""


def load(program: EngineProgram, order: LoadOrder) -> Loaded:
    """Loads, which warms up as well, and proves. Raises EmbedDaemonError, or whatever the engine raised."""
    meter = Meter()
    start = time.monotonic()
    folder, files = Path(order.card.folder), order.card.files
    check_unchanged(folder, files)
    model = program.load(order)
    check_unchanged(folder, files)  # config, tokenizer and weights are of one version
    _prove(model, order)
    seconds = time.monotonic() - start
    return Loaded(model, order, asdict(model.facts), seconds, meter.measure().peak_bytes)


def _prove(model: LoadedModel, order: LoadOrder) -> None:
    """One micro-batch of known texts, which shows before the first request that the model works."""
    encoded = sorted(model.tokenize(_TEXTS, prompt="", max_tokens=order.card.max_tokens), key=lambda one: len(one.ids))
    ids = np.concatenate([one.ids for one in encoded], dtype=np.int32)
    lengths = np.array([len(one.ids) for one in encoded], dtype=np.int32)
    card, pooled = order.card, model.forward(ids, lengths, None)
    _check_rows(pooled, card.pooled_dim, card)
    for dim in (card.dim, *(head.dim for head in card.heads)):
        _check_rows(model.project(pooled, dim), card.whole_dim(dim), card)


def _check_rows(rows: Rows, dim: int, card: ModelCard) -> None:
    if rows.shape != (len(_TEXTS), dim):
        raise FailedLoad(
            f"{card.folder}: the model gives vectors of {rows.shape[-1]} dimensions, its configuration says {dim}"
        )
    if not (np.isfinite(rows).all() and rows.any(axis=1).all()):
        raise FailedLoad(f"{card.folder}: the model's vectors are not finite or all zero")


def load_error(what: str, error: Exception) -> EmbedDaemonError:
    """The error to report for whatever ended a load (or a fetch)."""
    if isinstance(error, EmbedDaemonError):
        return error
    message = f"{what} could not be loaded: {type(error).__name__}: {error}"
    return FailedLoad(message[:2000], cause=causes(error))


def causes(error: Exception) -> tuple[str, ...]:
    """Of an error of ours that an exception ends as: the exception itself and what caused it, nearest first."""
    return (f"{type(error).__name__}: {error}"[:500], *chain(error))[:8]
