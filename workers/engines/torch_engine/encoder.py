"""One forward for encoders of BERT's layout, without modules: few operators, Q, K and V in one product, packed weights.

Built from transformers' loaded class, which stays the reference: tests hold the two equal. A short text is half as long
under way, because most of its time is Python and operators, not arithmetic. For layouts that differ: families/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard, cast

import torch
from torch import nn
from torch.nn.functional import layer_norm
from transformers.models.bert.modeling_bert import BertLayer, BertModel

from embeddaemon.workers.engines.torch_engine.attention import LengthGroup, packed_attention
from embeddaemon.workers.engines.torch_engine.linear import Activation, Linear, linear


@dataclass(frozen=True, slots=True)
class _Norm:
    shape: tuple[int, ...]
    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return layer_norm(rows, self.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class _Layer:
    query_key_value: Linear
    attended: Linear
    attention_norm: _Norm
    widened: Linear
    narrowed: Linear
    norm: _Norm


def suits(model: nn.Module) -> TypeGuard[BertModel]:
    """Whether a model is of exactly this layout; what is not known to be is left to its own class."""
    return isinstance(model, BertModel) and model.config.hidden_act == "gelu" and not model.config.is_decoder


class Encoder:
    """The functional form of one loaded model. Shares its embeddings and norms, packs its linear layers anew."""

    def __init__(self, model: BertModel) -> None:
        embeddings, config = model.embeddings, model.config
        self._heads = config.num_attention_heads
        self._words = embeddings.word_embeddings.weight.detach()
        # Every token is of the first type, so its vector can be part of the position's.
        positions = embeddings.position_embeddings.weight.float() + embeddings.token_type_embeddings.weight[0].float()
        self._positions = positions.detach().to(self._words.dtype)
        self._norm = _norm(embeddings.LayerNorm)
        self._layers = [_layer(cast("BertLayer", layer)) for layer in model.encoder.layer]  # a list of modules only

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[LengthGroup]) -> torch.Tensor:
        """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden)."""
        rows = self._norm(self._words[ids] + self._positions[positions])  # (tokens, hidden)
        for layer in self._layers:
            rows = layer.attention_norm(layer.attended(self._attend(layer.query_key_value(rows), groups)) + rows)
            rows = layer.norm(layer.narrowed(layer.widened(rows)) + rows)
        return rows

    def _attend(self, query_key_value: torch.Tensor, groups: Sequence[LengthGroup]) -> torch.Tensor:
        """(tokens, 3 * hidden) to (tokens, hidden)."""
        tokens = query_key_value.shape[0]
        split = query_key_value.view(tokens, 3, self._heads, -1).permute(1, 2, 0, 3)  # (3, heads, tokens, head dim)
        query, key, value = split[:, None]
        attended, _ = packed_attention(None, query, key, value, None, groups=groups)
        return attended.reshape(tokens, -1)


def _norm(norm: nn.LayerNorm) -> _Norm:
    return _Norm(norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps)


def _layer(layer: BertLayer) -> _Layer:
    heads, output = layer.attention.self, layer.attention.output
    parts = (heads.query, heads.key, heads.value)
    return _Layer(
        query_key_value=linear(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])),
        attended=linear(output.dense.weight, output.dense.bias),
        attention_norm=_norm(output.LayerNorm),
        widened=linear(layer.intermediate.dense.weight, layer.intermediate.dense.bias, Activation.GELU),
        narrowed=linear(layer.output.dense.weight, layer.output.dense.bias),
        norm=_norm(layer.output.LayerNorm),
    )
