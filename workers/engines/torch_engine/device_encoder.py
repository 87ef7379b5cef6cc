"""Encoders of BERT's layout on an accelerator: the forward of forward.py, with attention as the device has it.

Query, key and value in one product, and no modules between the kernels. Not compiled: the attention is chosen at load,
which TorchScript cannot call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import embedding, layer_norm

from embeddaemon.workers.engines.torch_engine.attention import LengthGroup
from embeddaemon.workers.engines.torch_engine.encoder import BertLike, weights_of
from embeddaemon.workers.engines.torch_engine.linear import linear, linear_gelu, linear_plus
from embeddaemon.workers.engines.torch_engine.varlen import Attend


class DeviceEncoder:
    """The functional form of one model that is on its device. Holds the weights: the module may go."""

    def __init__(self, model: BertLike, attend: Attend) -> None:
        self._heads: int = model.config.num_attention_heads
        self._eps: float = model.config.layer_norm_eps
        self._weights = weights_of(model)
        self._attend = attend

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[LengthGroup]) -> torch.Tensor:
        """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden)."""
        words, places, norm, norm_bias = self._weights[0]
        hidden, eps = [words.shape[1]], self._eps
        rows = layer_norm(embedding(ids, words) + embedding(positions, places), hidden, norm, norm_bias, eps)
        for layer in self._weights[1:]:
            into, into_bias, out, out_bias, norm, norm_bias = layer[:6]
            attended = self._attended(linear(rows, into, into_bias), groups)
            rows = layer_norm(linear_plus(attended, out, out_bias, rows), hidden, norm, norm_bias, eps)
            wide, wide_bias, narrow, narrow_bias, norm, norm_bias = layer[6:]
            widened = linear_gelu(rows, wide, wide_bias)
            rows = layer_norm(linear_plus(widened, narrow, narrow_bias, rows), hidden, norm, norm_bias, eps)
        return rows

    def _attended(self, query_key_value: torch.Tensor, groups: Sequence[LengthGroup]) -> torch.Tensor:
        """(tokens, 3 * hidden) to (tokens, hidden)."""
        tokens = query_key_value.shape[0]
        query, key, value = query_key_value.view(tokens, 3, self._heads, -1).unbind(1)  # (tokens, heads, head dim) each
        return self._attend(query, key, value, groups).reshape(tokens, -1)
