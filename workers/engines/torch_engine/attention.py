"""Attention over texts that lie end to end in one row, as one function that transformers' classes call.

The row is divided by lengths, which travel as a keyword argument through the model's forward; there is no padding.
Tokens after the last text (rounding.py) belong to none: nobody attends to them, and their own attention is zero.
Causal attention, windows and fewer heads of keys are understood as the classes mean them (sight.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import pad
from transformers import AttentionInterface

from embeddaemon.workers.engines.torch_engine.sight import Sight, attend, sight_of

NAME = "embeddaemon_packed"

# On the CPU in 16 bits torch makes a kernel for each length above 64 and keeps it, per thread: lengths up to 512 take
# 300 MB, rounded to multiples of 16 they take 6. Measured once (ms) without and with: 20 texts of 101 2.8, 2.4; 8 of
# 250 4.0, 3.2; but 8 of 500 10.2, 12.2 and one of 70 0.12, 0.13.
_FREE_LENGTH = 64
_LENGTH_STEP = 16


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """``texts`` texts of ``length`` tokens each, lying beside each other from token ``start`` on."""

    start: int
    texts: int
    length: int

    @property
    def tokens(self) -> int:
        return self.texts * self.length

    @property
    def end(self) -> int:
        return self.start + self.tokens


def groups_of(lengths: Sequence[int]) -> list[LengthGroup]:
    """Runs of equal lengths, in order."""
    groups: list[LengthGroup] = []
    start = run_start = run = 0
    for position, length in enumerate(lengths):
        run += 1
        start += length
        if position + 1 == len(lengths) or lengths[position + 1] != length:
            groups.append(LengthGroup(run_start, run, length))
            run_start, run = start, 0
    return groups


def packed_attention(
    module: nn.Module | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    groups: Sequence[LengthGroup],
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Every text attends to itself. Called by transformers.

    Query, key and value of (1, heads, tokens, head dim) in, (1, tokens, heads, head dim) out.
    """
    assert attention_mask is None, "packed attention takes no mask"
    assert dropout == 0.0, "nothing is trained here"
    check_others(others)
    sight = sight_of(module, is_causal=is_causal, sliding_window=sliding_window)
    heads, tokens, head_dim = query.shape[1:]
    if groups[0].tokens == tokens:
        return _attend(query, key, value, groups[0], sight, scale=scaling).reshape(1, tokens, heads, head_dim), None
    result = query.new_empty(1, tokens, heads, head_dim)
    for group in groups:
        rows = _attend(query, key, value, group, sight, scale=scaling)
        result.narrow(1, group.start, group.tokens).view(rows.shape).copy_(rows)
    result[:, groups[-1].end :] = 0.0
    return result, None


def check_others(arguments: Mapping[str, object]) -> None:
    """Refuses what a class passes to be computed, and is not computed here."""
    for name in ("softcap", "position_bias", "s_aux"):
        assert arguments.get(name) is None, f"attention with {name} is not what this function computes"


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    group: LengthGroup,
    sight: Sight,
    *,
    scale: float | None,
) -> torch.Tensor:
    """One group. (1, heads, tokens, head dim) in, (texts, length, heads, head dim) out."""
    query, key, value = (_texts_of(projected, group) for projected in (query, key, value))
    if filler := _filler(query, group.length):
        query, key, value = (pad(projected, (0, 0, 0, filler)) for projected in (query, key, value))
    attended = attend(
        query, key, value, sight, scale=scale, length=group.length
    )  # (texts, heads, length and filler, head dim)
    return attended[:, :, : group.length].transpose(1, 2)


def _filler(query: torch.Tensor, length: int) -> int:
    """By how many masked tokens each text of a group is made longer."""
    makes_kernels = query.device.type == "cpu" and query.dtype != torch.float32
    return -length % _LENGTH_STEP if makes_kernels and length > _FREE_LENGTH else 0


def _texts_of(projected: torch.Tensor, group: LengthGroup) -> torch.Tensor:
    """A view. (1, heads, tokens, head dim) to (texts, heads, length, head dim)."""
    rows = projected[0].narrow(1, group.start, group.tokens)
    return rows.view(rows.shape[0], group.texts, group.length, rows.shape[-1]).transpose(0, 1)


def register() -> None:
    """Tells transformers about our attention; a config chooses it by ``_attn_implementation = NAME``.

    No function for masks is registered: for a name that has none, transformers makes no mask and looks for none in the
    positions, which on a device would wait for it (``masking_utils._preprocess_mask_arguments``).
    """
    AttentionInterface.register(NAME, packed_attention)
