"""MPNet: BERT's layers, RoBERTa's positions, no token types, and on the scores of all layers one bias by distance.

The published class computes the distances' buckets from 32 and counts positions behind 1, whatever its config says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn.functional import embedding, layer_norm

from embeddaemon.models.card import ModelCard
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup
from embeddaemon.workers.engines.torch_engine.compiling import compiled
from embeddaemon.workers.engines.torch_engine.families import Family, named_weights
from embeddaemon.workers.engines.torch_engine.families.biased_attention import (
    BiasedBlock,
    DistanceBias,
    attend,
    reach_for,
)
from embeddaemon.workers.engines.torch_engine.families.named_weights import (
    NamedWeights,
    Shapes,
    linear_shapes,
    norm_shapes,
)
from embeddaemon.workers.engines.torch_engine.families.numbers import number, whole
from embeddaemon.workers.engines.torch_engine.families.roberta import positions_behind
from embeddaemon.workers.engines.torch_engine.linear import linear, linear_gelu, linear_plus
from embeddaemon.workers.engines.torch_engine.model import Encode

_PAD = 1
_BUCKETS = 32
_FARTHEST = 128
"""Tokens farther apart than this share the last bucket of their direction."""


def family(_: str) -> Family:
    """See families/__init__.py."""
    return Family(build=build, forward=forward_once, positions=lambda _: positions_behind(_PAD), functional=functional)


def build(config: Mapping[str, object], card: ModelCard, dtype: torch.dtype) -> nn.Module:
    """The weights, on the CPU. Raises CorruptModel."""
    number(config, "layer_norm_eps")
    shapes = _shapes(card, whole(config, "max_position_embeddings"))
    return named_weights.build(shapes, config, card, dtype, prefixes=("mpnet.",))


def _shapes(card: ModelCard, places: int) -> Shapes:
    hidden, intermediate = card.hidden, card.intermediate
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (card.vocabulary, hidden),
        "embeddings.position_embeddings.weight": (places, hidden),
        **norm_shapes("embeddings.LayerNorm", hidden),
        "encoder.relative_attention_bias.weight": (_BUCKETS, card.attention_heads),
    }
    for index in range(card.layers):
        layer = f"encoder.layer.{index}"
        for projection in "qkvo":
            shapes |= linear_shapes(f"{layer}.attention.attn.{projection}", hidden, hidden)
        shapes |= norm_shapes(f"{layer}.attention.LayerNorm", hidden)
        shapes |= linear_shapes(f"{layer}.intermediate.dense", intermediate, hidden)
        shapes |= linear_shapes(f"{layer}.output.dense", hidden, intermediate)
        shapes |= norm_shapes(f"{layer}.output.LayerNorm", hidden)
    return shapes


def functional(weights: nn.Module) -> Encode:
    """The forward, with linear layers packed, where the weights are."""
    assert isinstance(weights, NamedWeights)
    heads, eps = weights.card.attention_heads, number(weights.published, "layer_norm_eps")
    tensors = [_embeddings(weights), *(_layer(weights, index) for index in range(weights.card.layers))]
    words = tensors[0][0]
    table = weights.tensor("encoder.relative_attention_bias.weight")
    bias = DistanceBias(table[buckets(reach_for(len(tensors[0][1]))).to(table.device)].t().contiguous())
    compute = compiled(forward) if words.device.type == "cpu" else forward

    def encode(ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[LengthGroup]) -> torch.Tensor:
        return compute(ids, positions, bias.blocks(groups, len(ids)), tensors, heads=heads, eps=eps)

    return encode


def _embeddings(weights: NamedWeights) -> list[torch.Tensor]:
    tables = [weights.tensor(f"embeddings.{kind}_embeddings.weight") for kind in ("word", "position")]
    return [*tables, *weights.pair("embeddings.LayerNorm")]


def _layer(weights: NamedWeights, index: int) -> list[torch.Tensor]:
    layer = f"encoder.layer.{index}"
    attention = f"{layer}.attention.attn"
    return [
        *weights.linear(*(f"{attention}.{projection}" for projection in "qkv")),
        *weights.linear(f"{attention}.o"),
        *weights.pair(f"{layer}.attention.LayerNorm"),
        *weights.linear(f"{layer}.intermediate.dense"),
        *weights.linear(f"{layer}.output.dense"),
        *weights.pair(f"{layer}.output.LayerNorm"),
    ]


def buckets(reach: int) -> torch.Tensor:
    """(2 * reach - 1,): the bucket of each distance, from a key ``reach - 1`` before the query to as far behind it.

    As ``MPNetEncoder.relative_position_bucket`` of transformers 5.23 computes them, in float32: half of the buckets for
    keys behind the query, half of each half for every distance by itself, the rest for distances by their logarithm.
    """
    distances = torch.arange(1 - reach, reach)
    one_way = _BUCKETS // 2
    exact = one_way // 2
    apart = distances.abs()
    logarithms = torch.log(apart.float() / exact) / math.log(_FARTHEST / exact) * (one_way - exact)
    far = torch.clamp(exact + torch.where(apart < exact, 0.0, logarithms).long(), max=one_way - 1)
    return torch.where(apart < exact, apart, far) + (distances > 0) * one_way


def forward_once(
    weights: nn.Module, ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[LengthGroup]
) -> torch.Tensor:
    """``functional`` for one row alone."""
    return functional(weights)(ids, positions, groups)


def forward(
    ids: torch.Tensor,
    positions: torch.Tensor,
    blocks: list[BiasedBlock],
    weights: list[list[torch.Tensor]],
    *,
    heads: int,
    eps: float,
) -> torch.Tensor:
    """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden). For TorchScript as well.

    ``weights``: the embeddings' (words, positions, norm, its bias), then each layer's as ``_layer`` lists them.
    """
    words, places, norm, norm_bias = weights[0]
    hidden = [words.shape[1]]
    rows = layer_norm(embedding(ids, words) + embedding(positions, places), hidden, norm, norm_bias, eps)
    for layer in weights[1:]:
        into, into_bias, out, out_bias, norm, norm_bias = layer[:6]
        attended = attend(linear(rows, into, into_bias), heads, blocks)
        rows = layer_norm(linear_plus(attended, out, out_bias, rows), hidden, norm, norm_bias, eps)
        wide, wide_bias, narrow, narrow_bias, norm, norm_bias = layer[6:]
        widened = linear_gelu(rows, wide, wide_bias)
        rows = layer_norm(linear_plus(widened, narrow, narrow_bias, rows), hidden, norm, norm_bias, eps)
    return rows
