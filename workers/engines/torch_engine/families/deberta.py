"""DeBERTa v2 and v3, by transformers' own class: its attention to positions takes whole texts, so here they are padded.

Texts of near lengths lie in one batch, filler masked; what comes out is laid end to end again. A batch has few enough
scores that the half dozen tensors of their size, which the class makes in each layer, stay below 100 MB in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DebertaV2Config
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Model

from embeddaemon.models.card import ModelCard
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup
from embeddaemon.workers.engines.torch_engine.families import Family
from embeddaemon.workers.engines.torch_engine.families.native import Native, Tensors
from embeddaemon.workers.engines.torch_engine.rounding import rounded_up

MOST_SCORES = 4 * 1024 * 1024
"""Heads times tokens squared, of all texts in a batch; a text with more is alone. 12 heads, 512 tokens: 3 million."""

_WASTE = 8
"""The shortest text of a batch lacks at most one in so many of the longest one's tokens."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts that lie beside each other in the row, and how long each is made."""

    start: int
    lengths: tuple[int, ...]
    length: int


def family(_: str) -> Family:
    """See families/__init__.py."""
    return Family(build=build, forward=forward)


def build(config: Mapping[str, object], card: ModelCard, dtype: torch.dtype) -> nn.Module:
    """The model with the card's weights, on the CPU. Raises CorruptModel."""

    def without_unused(tensors: Tensors) -> Tensors:
        # Where inputs have no positions of their own, files may carry their table all the same.
        if config.get("position_biased_input") is False:
            tensors.pop("embeddings.position_embeddings.weight", None)
        return tensors

    native = Native(
        config_class=DebertaV2Config, model_class=DebertaV2Model, prefixes=("deberta.",), rename=without_unused
    )
    return native.build(config, card, dtype)


def forward(model: nn.Module, ids: torch.Tensor, _: torch.Tensor, groups: Sequence[LengthGroup]) -> torch.Tensor:
    """``ids`` (tokens,) to the last hidden state (tokens, hidden)."""
    deberta: Any = model  # to mypy its parts are modules only
    config = deberta.config
    most = config.max_position_embeddings
    result: torch.Tensor | None = None
    for batch in batches(groups, config.num_attention_heads, most):
        mask, places, kept = (part.to(ids.device) for part in _layout(batch))
        embedded = deberta.embeddings(input_ids=ids[places], mask=mask)
        hidden = deberta.encoder(embedded, mask, output_hidden_states=False).last_hidden_state
        if result is None:
            result = hidden.new_zeros(len(ids), hidden.shape[-1])
        result[batch.start : batch.start + len(kept)] = hidden.flatten(0, 1).index_select(0, kept)
    assert result is not None, "a row has texts"
    return result


def _layout(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """On the host: what is text (texts, length), each place's token in the row, and the places of text (tokens,)."""
    lengths = torch.tensor(batch.lengths)
    steps = torch.arange(batch.length)
    mask = (steps < lengths.unsqueeze(1)).long()
    starts = batch.start + torch.cumsum(lengths, 0) - lengths
    places = starts.unsqueeze(1) + steps * mask  # filler repeats the first token
    return mask, places, mask.flatten().nonzero().squeeze(1)


def batches(groups: Sequence[LengthGroup], heads: int, most: int) -> Iterator[Batch]:
    """The texts of a row in order, by powers of two; none is made longer than ``most`` tokens."""
    start, lengths = 0, [length for group in groups for length in [group.length] * group.texts]
    while lengths:
        shortest = longest = lengths[0]
        count = 0
        for length in lengths:
            low, high = min(shortest, length), max(longest, length)
            if count and (high - low > high // _WASTE or (count + 1) * heads * _rounded(high, most) ** 2 > MOST_SCORES):
                break
            shortest, longest, count = low, high, count + 1
        # Each number of texts and each length leave kernels behind (rounding.py): so few of either.
        count = 1 << (count.bit_length() - 1)
        yield Batch(start, tuple(lengths[:count]), _rounded(max(lengths[:count]), most))
        start += sum(lengths[:count])
        lengths = lengths[count:]


def _rounded(length: int, most: int) -> int:
    return max(length, min(rounded_up(length), most))
