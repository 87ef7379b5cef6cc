"""Attention on accelerators: one kernel for all texts of a row where there is one, else one call per group of lengths.

The kernel is ``torch.nn.attention.varlen`` (FlashAttention inside): CUDA from Ampere on, 16 bits, heads of a multiple
of 8 up to 256. It is tried once per model at load and compared with the other way; whatever is wrong with it, the
vectors are the same. Both serve the functional forward and, through transformers' interface, its own classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from embeddaemon.telemetry.logs import fields
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup, no_mask
from embeddaemon.workers.engines.torch_engine.row import Texts, divide, lay_out

_LOG = logging.getLogger(__name__)

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Sequence[LengthGroup], float | None], torch.Tensor]
"""Query, key and value of (tokens, heads, head dim), texts and scale (None: 1 / sqrt(head dim)) to the same shape."""

Kernel = Callable[..., torch.Tensor]
"""As ``torch.nn.attention.varlen.varlen_attn``."""

_TOLERANCE = 3e-2
"""Between the two ways on values of about one, in 16 bits; rounding, not more."""

_TRIED_LENGTHS = (1, 5, 16, 33)


def by_kernel(kernel: Kernel) -> Attend:
    """Attention by one call for all texts."""

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        groups: Sequence[LengthGroup],
        scale: float | None,
    ) -> torch.Tensor:
        assert isinstance(groups, Texts), "the kernel needs the bounds of the texts on the device"
        longest, bounds = groups.longest, groups.bounds
        return kernel(query, key, value, bounds, bounds, longest, longest, scale=scale)

    return attend


def by_group(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    groups: Sequence[LengthGroup],
    scale: float | None,
) -> torch.Tensor:
    """Attention by one call for each run of equal lengths. Nothing is padded."""
    result = torch.empty_like(query, memory_format=torch.contiguous_format)
    for group in groups:
        # Copied to lie in order: on MPS strided inputs gave wrong vectors (pytorch issues 163597, 181133).
        ours, theirs, values = (_texts_of(projected, group).contiguous() for projected in (query, key, value))
        attended = scaled_dot_product_attention(ours, theirs, values, scale=scale)  # (texts, heads, length, head dim)
        _texts_of(result, group).copy_(attended)
    return result


def _texts_of(projected: torch.Tensor, group: LengthGroup) -> torch.Tensor:
    """A view. (tokens, heads, head dim) to (texts, heads, length, head dim)."""
    rows = projected.narrow(0, group.start, group.tokens)
    return rows.view(group.texts, group.length, *rows.shape[1:]).transpose(1, 2)


def choose(device: torch.device, dtype: torch.dtype, heads: int, head_dim: int) -> Attend:
    """The fastest of the two that is right here, for a model of this shape. Runs operators on the device."""
    if device.type != "cuda" or dtype not in {torch.bfloat16, torch.float16}:
        return by_group
    kernel = _kernel()
    return by_kernel(kernel) if kernel is not None and is_right(kernel, device, dtype, heads, head_dim) else by_group


def _kernel() -> Kernel | None:
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 (torch before 2.10 has none)
    except ImportError as error:
        _LOG.warning(fields("attention_by_group", why=str(error)))
        return None
    return cast("Kernel", varlen_attn)  # a tensor, as long as nothing else is asked for


@torch.inference_mode()
def is_right(kernel: Kernel, device: torch.device, dtype: torch.dtype, heads: int, head_dim: int) -> bool:
    """Whether a kernel computes what attention by group does."""
    lengths = np.array(_TRIED_LENGTHS, dtype=np.int32)
    tokens = int(lengths.sum())
    nothing = np.zeros(tokens, dtype=np.int32)
    row = torch.from_numpy(lay_out(nothing, nothing, lengths, None)).to(device)
    generator = torch.Generator().manual_seed(1)
    together = torch.randn(tokens, 3, heads, head_dim, generator=generator).to(device, dtype)
    query, key, value = together.unbind(1)  # strided, as they come out of one product
    texts = divide(row, lengths).texts
    try:
        found = by_kernel(kernel)(query, key, value, texts, None)
        distance = (found - by_group(query, key, value, texts, None)).abs().max().item()
    except (RuntimeError, TypeError, ValueError) as error:  # NotImplementedError is a RuntimeError
        _LOG.warning(fields("attention_by_group", device=str(device), dtype=str(dtype), why=str(error)[:200]))
        return False
    if not distance <= _TOLERANCE:  # not a number is not right either
        _LOG.warning(fields("attention_by_group", device=str(device), why=f"the kernel differs by {distance}"))
        return False
    return True


def install(module: nn.Module, attend: Attend) -> None:
    """Makes one of transformers' models, already built, attend this way."""
    name = f"embeddaemon_{'by_group' if attend is by_group else 'varlen'}"
    AttentionInterface.register(name, _for_transformers(attend))
    AttentionMaskInterface.register(name, no_mask)
    config: Any = module.config  # transformers': it declares no such attribute
    config._attn_implementation = name  # noqa: SLF001 (where transformers looks for it)


def _for_transformers(attend: Attend) -> Callable[..., tuple[torch.Tensor, None]]:
    def attention(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        groups: Sequence[LengthGroup],
        scaling: float | None = None,
        dropout: float = 0.0,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        """(1, heads, tokens, head dim) in, (1, tokens, heads, head dim) out."""
        assert attention_mask is None, "texts lie end to end: there is nothing to mask"
        assert dropout == 0.0, "nothing is trained here"
        del module
        query, key, value = (projected[0].transpose(0, 1) for projected in (query, key, value))
        return attend(query, key, value, groups, scaling).unsqueeze(0), None

    return attention
