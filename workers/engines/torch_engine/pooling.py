"""Token vectors to one vector per text, group of equal lengths by group, accumulated in float32.

As sentence-transformers 6.2 pools (its ``pooling.py``): several modes are concatenated, prompt tokens are left out
where the model wants that, the other tokens keep their positions' weights. Normalising is a separate step and not here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from embeddaemon.models.spec import Pooling
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup


def pool(
    hidden: torch.Tensor,
    groups: Sequence[LengthGroup],
    modes: Sequence[Pooling],
    prompt_lengths: torch.Tensor | None,
) -> torch.Tensor:
    """(tokens, dim) to (texts, dim * modes) in float32. ``prompt_lengths`` (texts,): left out at the start."""
    pooled: list[torch.Tensor] = []
    text = 0
    for group in groups:
        rows = hidden.narrow(0, group.start, group.tokens).view(group.texts, group.length, -1).float()
        left_out = None if prompt_lengths is None else prompt_lengths.narrow(0, text, group.texts)
        pooled.append(_pool_group(rows, modes, left_out))
        text += group.texts
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled)


def _pool_group(rows: torch.Tensor, modes: Sequence[Pooling], left_out: torch.Tensor | None) -> torch.Tensor:
    """(texts, length, dim) to (texts, dim * modes)."""
    length = rows.shape[1]
    if left_out is None:
        return torch.cat([_pool_all(rows, mode) for mode in modes], dim=1)
    kept = torch.arange(length, device=rows.device) >= left_out.unsqueeze(1)  # (texts, length)
    return torch.cat([_pool_kept(rows, kept, left_out, mode) for mode in modes], dim=1)


def _pool_all(rows: torch.Tensor, mode: Pooling) -> torch.Tensor:
    """(texts, length, dim) to (texts, dim), every token counting."""
    length = rows.shape[1]
    match mode:
        case Pooling.CLS:
            return rows[:, 0]
        case Pooling.LAST_TOKEN:
            return rows[:, -1]
        case Pooling.MAX:
            return rows.amax(dim=1)
        case Pooling.MEAN:
            return rows.sum(dim=1) / length
        case Pooling.MEAN_SQRT_LEN:
            return rows.sum(dim=1) / math.sqrt(length)
        case Pooling.WEIGHTED_MEAN:
            weights = torch.arange(1, length + 1, device=rows.device, dtype=rows.dtype)
            return (rows * weights.view(1, length, 1)).sum(dim=1) / weights.sum()


def _pool_kept(rows: torch.Tensor, kept: torch.Tensor, left_out: torch.Tensor, mode: Pooling) -> torch.Tensor:
    """(texts, length, dim) to (texts, dim), with only ``kept`` (texts, length) counting; at least one token is."""
    texts, length, _ = rows.shape
    counts = kept.sum(dim=1, keepdim=True).to(rows.dtype)
    match mode:
        case Pooling.CLS:
            return rows[torch.arange(texts, device=rows.device), left_out]
        case Pooling.LAST_TOKEN:
            return rows[:, -1]
        case Pooling.MAX:
            return rows.masked_fill(~kept.unsqueeze(-1), float("-inf")).amax(dim=1)
        case Pooling.MEAN:
            return (rows * kept.unsqueeze(-1)).sum(dim=1) / counts
        case Pooling.MEAN_SQRT_LEN:
            return (rows * kept.unsqueeze(-1)).sum(dim=1) / counts.sqrt()
        case Pooling.WEIGHTED_MEAN:
            weights = torch.arange(1, length + 1, device=rows.device, dtype=rows.dtype) * kept  # (texts, length)
            return (rows * weights.unsqueeze(-1)).sum(dim=1) / weights.sum(dim=1, keepdim=True)
