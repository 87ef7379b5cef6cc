"""The forward of encoders with rotated queries and keys and gated layers (GTE, NomicBERT), as functions of tensors.

Built from transformers' loaded class, which stays the reference: tests hold the two equal. Query, key and value come of
one product; on the CPU weights are packed (linear.py) and all is compiled (compiling.py). Layers are post-norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding, layer_norm, silu

from embeddaemon.workers.engines.torch_engine import varlen
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup
from embeddaemon.workers.engines.torch_engine.blocks import Block, blocks_of
from embeddaemon.workers.engines.torch_engine.compiling import compiled
from embeddaemon.workers.engines.torch_engine.forward import attend
from embeddaemon.workers.engines.torch_engine.linear import linear, linear_gelu, linear_plus, packed
from embeddaemon.workers.engines.torch_engine.model import Encode

Weights = list[list[torch.Tensor]]
"""The embeddings' (words, the row of the first type, norm, its bias), then each layer's as ``_layer`` lists them."""


def functional(model: nn.Module) -> Encode:
    """The fastest form of a built GteModel or NomicBertModel where it is. Takes the model apart."""
    weights = take_weights(model)
    device = weights[0][0].device
    return (
        RotaryEncoder(model, weights).forward if device.type == "cpu" else DeviceRotaryEncoder(model, weights).forward
    )


class RotaryEncoder:
    """On the CPU."""

    def __init__(self, model: Any, weights: Weights) -> None:
        self._heads: int = model.config.num_attention_heads
        self._eps: float = model.config.layer_norm_eps
        self._activation: str = model.config.hidden_act
        self._frequencies: torch.Tensor = model.rotary_emb.inv_freq
        self._weights = weights
        self._compute = compiled(forward)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[LengthGroup]) -> torch.Tensor:
        """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden)."""
        return self._compute(
            ids,
            positions,
            blocks_of(groups, self._weights[0][0].dtype, len(ids)),
            self._weights,
            self._frequencies,
            heads=self._heads,
            eps=self._eps,
            activation=self._activation,
        )


class DeviceRotaryEncoder:
    """On an accelerator, with the attention that is fastest there; not compiled, for TorchScript cannot call that."""

    def __init__(self, model: Any, weights: Weights, attend: varlen.Attend | None = None) -> None:
        self._heads: int = model.config.num_attention_heads
        self._eps: float = model.config.layer_norm_eps
        self._activation: str = model.config.hidden_act
        self._frequencies: torch.Tensor = model.rotary_emb.inv_freq
        self._weights = weights
        words = weights[0][0]
        heads = varlen.Heads(self._heads, self._heads, words.shape[1] // self._heads)
        self._attend = attend or varlen.choose(words.device, words.dtype, heads)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[LengthGroup]) -> torch.Tensor:
        """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden)."""
        rows = embedded(ids, self._weights[0], self._eps)
        cosines, sines = angles(positions, self._frequencies, rows.dtype)
        for layer in self._weights[1:]:
            turned = query_key_value(rows, layer, cosines, sines, self._heads)
            query, key, value = turned.view(len(ids), 3, self._heads, -1).unbind(1)  # (tokens, heads, head dim) each
            attended = self._attend(query, key, value, groups).reshape(len(ids), -1)
            rows = after_attention(attended, rows, layer, self._eps, self._activation)
        return rows


def forward(
    ids: torch.Tensor,
    positions: torch.Tensor,
    blocks: list[Block],
    weights: list[list[torch.Tensor]],
    frequencies: torch.Tensor,
    *,
    heads: int,
    eps: float,
    activation: str,
) -> torch.Tensor:
    """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden)."""
    rows = embedded(ids, weights[0], eps)
    cosines, sines = angles(positions, frequencies, rows.dtype)
    for layer in weights[1:]:
        attended = attend(query_key_value(rows, layer, cosines, sines, heads), heads, blocks)
        rows = after_attention(attended, rows, layer, eps, activation)
    return rows


def embedded(ids: torch.Tensor, weights: list[torch.Tensor], eps: float) -> torch.Tensor:
    """(tokens,) to (tokens, hidden)."""
    words, first_type, norm, norm_bias = weights
    return layer_norm(embedding(ids, words) + first_type, [words.shape[1]], norm, norm_bias, eps)


def angles(positions: torch.Tensor, frequencies: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, (tokens, 1, 1, half of a head) each; computed in float32."""
    turns = (positions.unsqueeze(1).float() * frequencies.float()).unsqueeze(1).unsqueeze(1)
    return turns.cos().to(dtype), turns.sin().to(dtype)


def query_key_value(
    rows: torch.Tensor, layer: list[torch.Tensor], cosines: torch.Tensor, sines: torch.Tensor, heads: int
) -> torch.Tensor:
    """(tokens, hidden) to (tokens, 3 * hidden), queries and keys rotated: a head's halves are its two coordinates."""
    product = linear(rows, layer[0], layer[1])
    halves = product.view(rows.shape[0], 3, heads, 2, -1)[:, :2]
    left, right = halves.unbind(3)  # (tokens, 2, heads, half of a head) each
    turned = torch.addcmul(left * cosines, right, sines, value=-1.0)
    right.mul_(cosines).addcmul_(left, sines)
    left.copy_(turned)
    return product


def after_attention(
    attended: torch.Tensor, rows: torch.Tensor, layer: list[torch.Tensor], eps: float, activation: str
) -> torch.Tensor:
    """The rest of a layer: (tokens, hidden) of each to the same."""
    hidden = [rows.shape[1]]
    out, out_bias, norm, norm_bias, up, gate, wide_bias, down, down_bias, last_norm, last_bias = layer[2:]
    rows = layer_norm(linear_plus(attended, out, out_bias, rows), hidden, norm, norm_bias, eps)
    if activation == "gelu":
        gated = linear_gelu(rows, gate, wide_bias)
    else:
        gated = silu(linear(rows, gate, wide_bias), inplace=True)
    gated.mul_(linear(rows, up, wide_bias))
    return layer_norm(linear_plus(gated, down, down_bias, rows), hidden, last_norm, last_bias, eps)


def take_weights(model: Any) -> Weights:
    """Of a built GteModel or NomicBertModel, whose layers go one by one, so that only one is held twice at a time."""
    assert model.config.hidden_act in {"gelu", "silu"}, "no other is told apart above"
    embeddings = model.embeddings
    words = embeddings.word_embeddings.weight.detach()
    types = embeddings.token_type_embeddings
    first_type = words.new_zeros(words.shape[1]) if types is None else types.weight[0].detach()
    weights = [[words, first_type, *_parameters(embeddings.LayerNorm)]]
    for index in range(len(model.layers)):
        weights.append(_layer(model.layers[index]))
        model.layers[index] = nn.Identity()
    return weights


def _layer(layer: Any) -> list[torch.Tensor]:
    """In the order in which ``query_key_value`` and ``after_attention`` take them. A bias that is not there is zero."""
    heads, mlp = layer.self_attn, layer.mlp
    parts = (heads.q_proj, heads.k_proj, heads.v_proj)
    return [
        packed(torch.cat([part.weight for part in parts])),
        torch.cat([_bias(part) for part in parts]),
        packed(heads.o_proj.weight),
        _bias(heads.o_proj),
        *_parameters(layer.post_attention_layernorm),
        packed(mlp.up_proj.weight),
        packed(mlp.gate_proj.weight),
        _bias(mlp.up_proj),
        packed(mlp.down_proj.weight),
        _bias(mlp.down_proj),
        *_parameters(layer.post_mlp_layernorm),
    ]


def _bias(dense: Any) -> torch.Tensor:
    bias: torch.Tensor | None = dense.bias
    return dense.weight.new_zeros(dense.out_features) if bias is None else bias.detach()


def _parameters(norm: nn.LayerNorm) -> list[torch.Tensor]:
    return [norm.weight.detach(), norm.bias.detach()]
