"""Attention with a bias on its scores that follows from how far two tokens lie apart: MPNet's buckets, Jina's ALiBi.

As in forward.py the texts lie end to end in one row and attend in blocks (blocks.py). The bias of a block is made once
for all layers, filler masked in it, as long as those of a row take no more than ``WHOLE_BIAS_BYTES`` together. What is
longer takes no memory for its bias: that is the same along its diagonals, so with the queries in reverse order it is a
view of one line of numbers per head, each row beginning one further on. Measured for one thread and 12 heads of 64, ms
without bias, by the view, by pieces that are made anew: 1,008 tokens 8.6, 10.0, 24; 8,176 535, 611, 2,876.
Kernels of devices want rows that lie apart, so there the view is copied by ``ROWS_BYTES`` of it at a time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from embeddaemon.workers.engines.torch_engine.attention import LengthGroup
from embeddaemon.workers.engines.torch_engine.blocks import Block, blocks_of

WHOLE_BIAS_BYTES = 32 * 1024 * 1024
"""The most that whole biases take in one forward pass: all that MPNet ever needs in 16 bits, 25 MiB for 2,048 tokens of
512 and 12 heads."""

ROWS_BYTES = 32 * 1024 * 1024
"""On a device, beside the above: the most that is copied of a view at once."""

_LONG = 192
"""From so many tokens on, where there is no filler, a CPU is as quick with a view as with a whole bias. In float32, six
texts of 200 to 512 tokens: 18.4 ms, 22.0."""

_ROUNDED = 16
"""Blocks have lengths up to the next multiple of this (blocks.py)."""


class BiasedBlock(NamedTuple):
    """A block and what is added to its scores. TorchScript reads this, and could not if annotations were text."""

    block: Block
    """Its mask is used only with a view."""
    bias: torch.Tensor
    """(texts or 1, heads, length, length)."""
    is_view: bool
    """Whether the bias is for the queries in reverse order, and does not mask the filler."""


class DistanceBias:
    """The bias of one model."""

    def __init__(self, by_distance: torch.Tensor) -> None:
        """``by_distance`` (heads, 2 * reach - 1): for a key ``reach - 1`` before the query up to as far behind it."""
        self._by_distance = by_distance
        self._reach = (by_distance.shape[1] + 1) // 2

    def blocks(self, groups: Sequence[LengthGroup], row_tokens: int) -> list[BiasedBlock]:
        """The texts of a row of ``row_tokens`` in blocks, in order."""
        is_cpu = self._by_distance.device.type == "cpu"
        # Elsewhere nothing is gained by gathering lengths, so texts attend as they lie.
        blocks = blocks_of(groups, self._by_distance.dtype if is_cpu else torch.float32, row_tokens)
        left_bytes = WHOLE_BIAS_BYTES
        biased: list[BiasedBlock] = []
        for block in blocks:
            view = self._view(block.length)
            texts = 1 if block.mask is None else block.texts
            whole_bytes = texts * view.numel() * view.element_size()
            if whole_bytes > left_bytes or (is_cpu and block.mask is None and block.length >= _LONG):
                biased.append(BiasedBlock(block, view, is_view=True))
                continue
            left_bytes -= whole_bytes
            biased.append(BiasedBlock(block, _whole(view, block.mask), is_view=False))
        return biased

    def _view(self, length: int) -> torch.Tensor:
        """(1, heads, length, length), the last query's row first."""
        line = self._by_distance[:, self._reach - length : self._reach + length - 1]
        return line.unfold(1, length, 1).unsqueeze(0)


def reach_for(positions: int) -> int:
    """The reach that texts of up to ``positions`` tokens need, filler included."""
    return -(-positions // _ROUNDED) * _ROUNDED


def _whole(view: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """(texts or 1, heads, length, length), rows in the order of the queries, filler masked."""
    bias = view.flip(2)
    return bias if mask is None else bias + mask


def attend(query_key_value: torch.Tensor, heads: int, blocks: list[BiasedBlock]) -> torch.Tensor:
    """(tokens, 3 * hidden) to (tokens, hidden): every text attends to itself. For TorchScript as well."""
    tokens = query_key_value.shape[0]
    hidden = query_key_value.shape[1] // 3
    result = query_key_value.new_empty((tokens, hidden))
    end = 0
    for biased in blocks:
        block = biased.block
        end = block.start + block.tokens
        rows = query_key_value[block.start : end]
        gather, scatter = block.gather, block.scatter
        if gather is not None:
            rows = rows.index_select(0, gather)
        query, key, value = rows.view(block.texts, block.length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if not rows.is_cpu:  # on MPS strided inputs gave wrong vectors (pytorch issues 163597, 181133)
            query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        if not biased.is_view:
            attended = scaled_dot_product_attention(query, key, value, biased.bias)
        elif rows.is_cpu:
            attended = attend_by_view(query, key, value, block.mask, biased.bias)
        else:
            attended = attend_by_rows(query, key, value, biased.bias)
        attended = attended.transpose(1, 2).reshape(block.texts * block.length, hidden)
        if scatter is not None:
            attended = attended.index_select(0, scatter)
        if block.tokens == tokens:
            return attended
        result[block.start : end] = attended
    result[end:] = 0.0  # what rounds the row up (rounding.py) belongs to no text
    return result


def attend_by_view(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, view: torch.Tensor
) -> torch.Tensor:
    """(texts, heads, length, head dim) each to the same. For the CPU, whose kernel reads rows that overlap."""
    head_dim = query.shape[3]
    scale = 1.0 / float(head_dim) ** 0.5
    query = query.flip(2)
    if mask is not None:
        # A view cannot mask keys. Two more dimensions do, ones in the queries: their products are added to the scores.
        masked = mask.transpose(2, 3).expand(-1, key.shape[1], -1, 2)
        query, key, value = pad(query, [0, 2], value=1.0), torch.cat([key, masked], dim=3), pad(value, [0, 2])
    attended = scaled_dot_product_attention(query, key, value, view, scale=scale)
    return attended[:, :, :, :head_dim].flip(2)


def attend_by_rows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, view: torch.Tensor, rows_bytes: int = ROWS_BYTES
) -> torch.Tensor:
    """The same without filler, for any device: of the view, rows of ``rows_bytes`` are copied at a time."""
    rows = max(1, rows_bytes // (view.shape[1] * view.shape[3] * view.element_size()))
    query = query.flip(2)
    parts: list[torch.Tensor] = []
    for start in range(0, view.shape[2], rows):
        bias = view[:, :, start : start + rows].contiguous()
        parts.append(scaled_dot_product_attention(query[:, :, start : start + rows], key, value, bias))
    return torch.cat(parts, dim=2).flip(2)
