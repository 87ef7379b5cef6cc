"""The forward pass of encoders of BERT's layout as one function of tensors, with few operators.

Written in what TorchScript understands: compiled (compiling.py), it runs without Python, so that a short text does not
wait for the interpreter and several threads of one worker do not wait for each other. Uncompiled it is the same.
"""

from __future__ import annotations

import torch
from torch.nn.functional import embedding, layer_norm, scaled_dot_product_attention

from embeddaemon.workers.engines.torch_engine.blocks import Block
from embeddaemon.workers.engines.torch_engine.linear import linear, linear_gelu, linear_plus


def attend(query_key_value: torch.Tensor, heads: int, blocks: list[Block]) -> torch.Tensor:
    """(tokens, 3 * hidden) to (tokens, hidden): every text attends to itself, block by block."""
    tokens = query_key_value.shape[0]
    hidden = query_key_value.shape[1] // 3
    result = query_key_value.new_empty((tokens, hidden))
    end = 0
    for block in blocks:
        end = block.start + block.tokens
        rows = query_key_value[block.start : end]
        gather, scatter = block.gather, block.scatter
        if gather is not None:
            rows = rows.index_select(0, gather)
        query, key, value = rows.view(block.texts, block.length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attended = scaled_dot_product_attention(query, key, value, block.mask)  # (texts, heads, length, head dim)
        attended = attended.transpose(1, 2).reshape(block.texts * block.length, hidden)
        if scatter is not None:
            attended = attended.index_select(0, scatter)
        if block.tokens == tokens:
            return attended
        result[block.start : end] = attended
    result[end:] = 0.0  # what rounds the row up (rounding.py) belongs to no text
    return result


def forward(
    ids: torch.Tensor,
    positions: torch.Tensor,
    blocks: list[Block],
    weights: list[list[torch.Tensor]],
    *,
    heads: int,
    eps: float,
) -> torch.Tensor:
    """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden).

    ``weights``: the embeddings' (words, positions, norm, its bias), then each layer's, as encoder.py lists them.
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
