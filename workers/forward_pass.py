"""One micro-batch through the model: rows in, vectors out. Where a device has no room for it, once more in halves."""

from __future__ import annotations

import logging
from itertools import accumulate

import numpy as np

from embeddaemon.models.card import ModelCard
from embeddaemon.telemetry.logs import fields
from embeddaemon.workers.engines import DeviceFull, LoadedModel, OnDevice, Rows
from embeddaemon.workers.waiting import MicroBatch

log = logging.getLogger(__name__)


def forward(model: LoadedModel, card: ModelCard, rows: MicroBatch) -> Rows:
    """(texts, pooled_dim). Raises whatever the engine raises; DeviceFull only if half of it was too much as well."""
    try:
        return _pass(model, card, rows)
    except DeviceFull as error:
        log.warning(fields("device_full", model=card.name, texts=len(rows), reason=error))
    # Not where the error still is: what the pass held hangs on its traceback.
    if isinstance(model, OnDevice):
        model.give_back()
    return np.concatenate([_pass(model, card, part) for part in halves(rows)])


def halves(rows: MicroBatch) -> list[MicroBatch]:
    """Two parts of about as many tokens; a single text stays what it is."""
    if len(rows) < 2:
        return [rows]
    tokens = list(accumulate(row.tokens for row in rows))
    first = 1 + sum(1 for so_far in tokens[1:-1] if 2 * so_far <= tokens[-1])
    return [rows[:first], rows[first:]]


def _pass(model: LoadedModel, card: ModelCard, rows: MicroBatch) -> Rows:
    texts = [row.work.tokenized.ids[row.index] for row in rows]
    lengths = np.fromiter(map(len, texts), dtype=np.int32, count=len(texts))
    prompt_lengths = None
    if not card.include_prompt:
        prompts = (row.work.tokenized.prompt_tokens[row.index] for row in rows)
        prompt_lengths = np.fromiter(prompts, dtype=np.int32, count=len(rows))
    ids = texts[0] if len(texts) == 1 else np.concatenate(texts)
    return model.forward(ids, lengths, prompt_lengths)
