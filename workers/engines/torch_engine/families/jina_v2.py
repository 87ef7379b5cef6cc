"""Jina BERT v2 and its variant for code (qk-post-norm): BERT's layers with a bias that grows with distance (ALiBi).

They have no table of positions, and a gated feed-forward part. Loaded as the BERT that config.json says, half of the
layers would be random. From the published description of both (jina-bert-implementation, jina-bert-v2-qk-post-norm):

* jina-v2: ``gated_layers`` packs the half that is activated first; the norm behind the feed-forward part is ``mlp``'s.
* jina-v2-code: ``up_gated_layer`` packs the half that is activated second; queries and keys are normed over the whole
  hidden size before heads are divided; behind the attention's own norm comes another (``layer_norm_1``), which adds the
  layer's input a second time.
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
from embeddaemon.workers.engines.torch_engine.linear import linear, linear_gelu, linear_plus, packed
from embeddaemon.workers.engines.torch_engine.model import Encode

_CODE = "jina-v2-code"


def family(_: str) -> Family:
    """See families/__init__.py."""
    return Family(build=build, forward=forward_once, functional=functional)


def build(config: Mapping[str, object], card: ModelCard, dtype: torch.dtype) -> nn.Module:
    """The weights, on the CPU. Raises CorruptModel."""
    number(config, "layer_norm_eps")
    return named_weights.build(
        _shapes(card, whole(config, "type_vocab_size")), config, card, dtype, prefixes=("bert.",)
    )


def _shapes(card: ModelCard, token_types: int) -> Shapes:
    hidden = card.hidden
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (card.vocabulary, hidden),
        "embeddings.token_type_embeddings.weight": (token_types, hidden),
        **norm_shapes("embeddings.LayerNorm", hidden),
    }
    for index in range(card.layers):
        layer = f"encoder.layer.{index}"
        for projection in ("query", "key", "value"):
            shapes |= linear_shapes(f"{layer}.attention.self.{projection}", hidden, hidden)
        shapes |= linear_shapes(f"{layer}.attention.output.dense", hidden, hidden)
        shapes |= norm_shapes(f"{layer}.attention.output.LayerNorm", hidden)
        names = _Names(layer, card.family)
        shapes[f"{names.gated}.weight"] = (2 * card.intermediate, hidden)
        shapes |= linear_shapes(names.narrow, hidden, card.intermediate) | norm_shapes(names.norm, hidden)
        for norm in names.further_norms:
            shapes |= norm_shapes(norm, hidden)
    return shapes


class _Names:
    """Of the tensors in which the two variants differ."""

    def __init__(self, layer: str, family: str) -> None:
        self.is_code = family == _CODE
        self.gated = f"{layer}.mlp.{'up_gated_layer' if self.is_code else 'gated_layers'}"
        self.narrow = f"{layer}.mlp.{'down_layer' if self.is_code else 'wo'}"
        self.norm = f"{layer}.layer_norm_2" if self.is_code else f"{layer}.mlp.layernorm"
        own = ("attention.self.layer_norm_q", "attention.self.layer_norm_k", "layer_norm_1") if self.is_code else ()
        self.further_norms = [f"{layer}.{name}" for name in own]


def functional(weights: nn.Module) -> Encode:
    """The forward, with linear layers packed, where the weights are."""
    assert isinstance(weights, NamedWeights)
    heads, eps = weights.card.attention_heads, number(weights.published, "layer_norm_eps")
    tensors = [_embeddings(weights), *(_layer(weights, index) for index in range(weights.card.layers))]
    words = tensors[0][0]
    bias = DistanceBias(by_distance(heads, weights.card.max_tokens).to(words))
    compute = compiled(forward) if words.device.type == "cpu" else forward

    def encode(ids: torch.Tensor, _: torch.Tensor, groups: Sequence[LengthGroup]) -> torch.Tensor:
        return compute(ids, bias.blocks(groups, len(ids)), tensors, heads=heads, eps=eps)

    return encode


def _embeddings(weights: NamedWeights) -> list[torch.Tensor]:
    """Of words, of the first token type (hidden,), which every token is of, and their norm."""
    types = weights.tensor("embeddings.token_type_embeddings.weight")
    return [weights.tensor("embeddings.word_embeddings.weight"), types[0], *weights.pair("embeddings.LayerNorm")]


def _layer(weights: NamedWeights, index: int) -> list[torch.Tensor]:
    layer = f"encoder.layer.{index}"
    names = _Names(layer, weights.card.family)
    first, second = weights.tensor(f"{names.gated}.weight").chunk(2)
    gate, up = (second, first) if names.is_code else (first, second)
    return [
        *weights.linear(*(f"{layer}.attention.self.{projection}" for projection in ("query", "key", "value"))),
        *weights.linear(f"{layer}.attention.output.dense"),
        *weights.pair(f"{layer}.attention.output.LayerNorm"),
        packed(gate),
        packed(up),
        gate.new_zeros(len(gate)),  # neither has a bias, the operators take one
        *weights.linear(names.narrow),
        *weights.pair(names.norm),
        *(tensor for norm in names.further_norms for tensor in weights.pair(norm)),
    ]


def slopes(heads: int) -> list[float]:
    """By how much the bias of each head falls per token, as its paper gives them (Press et al., ALiBi).

    For 2^k heads a geometric row that ends at 2^-8; for other numbers the row of the next smaller power of two, and
    then every other slope of the row for twice as many.
    """
    full = 2 ** math.floor(math.log2(heads))
    row = [2.0 ** (-8.0 * (place + 1) / full) for place in range(full)]
    between = [2.0 ** (-8.0 * (place + 1) / (2 * full)) for place in range(0, 2 * full, 2)]
    return row + between[: heads - full]


def by_distance(heads: int, positions: int) -> torch.Tensor:
    """(heads, 2 * reach - 1): the bias by key minus query, for texts of up to ``positions`` tokens."""
    reach = reach_for(positions)
    return torch.tensor(slopes(heads)).unsqueeze(1) * -torch.arange(1 - reach, reach).abs()


def forward_once(
    weights: nn.Module, ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[LengthGroup]
) -> torch.Tensor:
    """``functional`` for one row alone."""
    return functional(weights)(ids, positions, groups)


def forward(
    ids: torch.Tensor,
    blocks: list[BiasedBlock],
    weights: list[list[torch.Tensor]],
    *,
    heads: int,
    eps: float,
) -> torch.Tensor:
    """``ids`` (tokens,) to the last hidden state (tokens, hidden). For TorchScript as well.

    ``weights``: the embeddings' (words, token type, norm, its bias), then each layer's as ``_layer`` lists them.
    """
    words, token_type, norm, norm_bias = weights[0]
    size = words.shape[1]
    hidden = [size]
    rows = layer_norm(embedding(ids, words) + token_type, hidden, norm, norm_bias, eps)
    for layer in weights[1:]:
        into, into_bias, out, out_bias, norm, norm_bias = layer[:6]
        projected = linear(rows, into, into_bias)  # (tokens, 3 * hidden)
        is_code = len(layer) > 13
        if is_code:
            query = layer_norm(projected[:, :size], hidden, layer[13], layer[14], eps)
            key = layer_norm(projected[:, size : 2 * size], hidden, layer[15], layer[16], eps)
            projected = torch.cat([query, key, projected[:, 2 * size :]], dim=1)
        attended = layer_norm(
            linear_plus(attend(projected, heads, blocks), out, out_bias, rows), hidden, norm, norm_bias, eps
        )
        rows = layer_norm(rows + attended, hidden, layer[17], layer[18], eps) if is_code else attended
        gate, up, no_bias, narrow, narrow_bias, norm, norm_bias = layer[6:13]
        widened = linear_gelu(rows, gate, no_bias).mul_(linear(rows, up, no_bias))  # (tokens, intermediate)
        rows = layer_norm(linear_plus(widened, narrow, narrow_bias, rows), hidden, norm, norm_bias, eps)
    return rows
