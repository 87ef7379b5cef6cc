"""Attention on accelerators: one kernel for all texts of a row where there is one, else one call per group of lengths.

The kernel is ``torch.nn.attention.varlen`` (FlashAttention inside): CUDA from Ampere on, 16 bits, heads of a multiple
of 8 up to 256; causal attention, windows and fewer heads of keys are arguments of it. It is tried once per model at
load, in every way that the model may need, and compared with the other way; whatever is wrong with it, the vectors are
the same. Both serve the functional forward and, through transformers' interface, its own classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface

from embeddaemon.telemetry.logs import fields
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup, check_others
from embeddaemon.workers.engines.torch_engine.row import Texts, divide, lay_out
from embeddaemon.workers.engines.torch_engine.sight import EVERYTHING, Sight, sight_of
from embeddaemon.workers.engines.torch_engine.sight import attend as attend_alike

_LOG = logging.getLogger(__name__)


class Attend(Protocol):
    """Attention of every text to itself."""

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        groups: Sequence[LengthGroup],
        *,
        scale: float | None = None,
        sight: Sight = EVERYTHING,
    ) -> torch.Tensor:
        """(tokens, heads, head dim) to the same; keys and values may have fewer heads.

        ``scale`` of None: 1 / sqrt(head dim).
        """
        ...


Kernel = Callable[..., torch.Tensor]
"""As ``torch.nn.attention.varlen.varlen_attn``."""

_TOLERANCE = 3e-2
"""Between the two ways on values of about one, in 16 bits; rounding, not more."""

_TRIED_LENGTHS = (1, 5, 16, 33)

EVERY_WAY = (EVERYTHING, Sight(is_causal=True), Sight(reach=3), Sight(is_causal=True, reach=3))
"""All that transformers' classes can ask for."""


def by_kernel(kernel: Kernel) -> Attend:
    """Attention by one call for all texts."""

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        groups: Sequence[LengthGroup],
        *,
        scale: float | None = None,
        sight: Sight = EVERYTHING,
    ) -> torch.Tensor:
        assert isinstance(groups, Texts), "the kernel needs the bounds of the texts on the device"
        longest, bounds = groups.longest, groups.bounds
        options: dict[str, object] = {}
        if query.shape[1] != key.shape[1]:
            options["enable_gqa"] = True
        if sight != EVERYTHING:
            options["window_size"] = _window(sight)
        return kernel(query, key, value, bounds, bounds, longest, longest, scale=scale, **options)

    return attend


def _window(sight: Sight) -> tuple[int, int]:
    """As the kernel counts: tokens to the left and to the right of a token, itself not counted; -1: all."""
    reach = -1 if sight.reach is None else sight.reach
    return reach, 0 if sight.is_causal else reach


def by_group(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    groups: Sequence[LengthGroup],
    *,
    scale: float | None = None,
    sight: Sight = EVERYTHING,
) -> torch.Tensor:
    """Attention by one call for each run of equal lengths. Nothing is padded."""
    result = torch.empty_like(query, memory_format=torch.contiguous_format)
    alike = query.shape[1] // key.shape[1]
    for group in groups:
        # Copied to lie in order: on MPS strided inputs gave wrong vectors (pytorch issues 163597, 181133). Heads of
        # keys are repeated, since with a mask CUDA has no quick kernel for fewer of them.
        ours = _texts_of(query, group).contiguous()
        theirs, values = (_repeated(_texts_of(projected, group), alike).contiguous() for projected in (key, value))
        # (texts, heads, length, head dim)
        attended = attend_alike(ours, theirs, values, sight, scale=scale, length=group.length)
        _texts_of(result, group).copy_(attended)
    return result


def _texts_of(projected: torch.Tensor, group: LengthGroup) -> torch.Tensor:
    """A view. (tokens, heads, head dim) to (texts, heads, length, head dim)."""
    rows = projected.narrow(0, group.start, group.tokens)
    return rows.view(group.texts, group.length, *rows.shape[1:]).transpose(1, 2)


def _repeated(heads: torch.Tensor, times: int) -> torch.Tensor:
    """(texts, heads, length, head dim) to each head so many times, one after the other."""
    return heads if times == 1 else heads.unsqueeze(2).expand(-1, -1, times, -1, -1).flatten(1, 2)


@dataclass(frozen=True, slots=True)
class Heads:
    """Of one attention layer: how many for queries, how many for keys and values, and how wide each is."""

    queries: int
    keys: int
    dim: int


def choose(device: torch.device, dtype: torch.dtype, heads: Heads, sights: Sequence[Sight] = (EVERYTHING,)) -> Attend:
    """The fastest of the two that is right here, for a model of these ``heads`` and ``sights``.

    Runs operators on the device.
    """
    if device.type != "cuda" or dtype not in {torch.bfloat16, torch.float16}:
        return by_group
    kernel = _kernel()
    if kernel is None:
        return by_group
    return by_kernel(kernel) if all(is_right(kernel, device, dtype, heads, sight) for sight in sights) else by_group


def _kernel() -> Kernel | None:
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 (torch before 2.10 has none)
    except ImportError as error:
        _LOG.warning(fields("attention_by_group", why=str(error)))
        return None
    return cast("Kernel", varlen_attn)  # a tensor, as long as nothing else is asked for


@torch.inference_mode()
def is_right(kernel: Kernel, device: torch.device, dtype: torch.dtype, heads: Heads, sight: Sight) -> bool:
    """Whether a kernel computes what attention by group does."""
    lengths = np.array(_TRIED_LENGTHS, dtype=np.int32)
    tokens = int(lengths.sum())
    nothing = np.zeros(tokens, dtype=np.int32)
    row = torch.from_numpy(lay_out(nothing, nothing, lengths, None)).to(device)
    generator = torch.Generator().manual_seed(1)
    together = torch.randn(tokens, heads.queries + 2 * heads.keys, heads.dim, generator=generator).to(device, dtype)
    query, key, value = together.tensor_split(
        (heads.queries, heads.queries + heads.keys), 1
    )  # strided, as out of one product
    texts = divide(row, lengths).texts
    where = {"device": str(device), "dtype": str(dtype), "sight": str(sight)}
    try:
        found = by_kernel(kernel)(query, key, value, texts, sight=sight)
        distance = (found - by_group(query, key, value, texts, sight=sight)).abs().max().item()
    except (RuntimeError, TypeError, ValueError) as error:  # NotImplementedError is a RuntimeError
        _LOG.warning(fields("attention_by_group", **where, why=str(error)[:200]))
        return False
    if not distance <= _TOLERANCE:  # not a number is not right either
        _LOG.warning(fields("attention_by_group", **where, why=f"the kernel differs by {distance}"))
        return False
    return True


def install(module: nn.Module, attend: Attend) -> None:
    """Makes one of transformers' models, already built, attend this way."""
    name = f"embeddaemon_{'by_group' if attend is by_group else 'varlen'}"
    AttentionInterface.register(name, _for_transformers(attend))
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
        is_causal: bool | None = None,
        sliding_window: int | None = None,
        **others: object,
    ) -> tuple[torch.Tensor, None]:
        """(1, heads, tokens, head dim) in, (1, tokens, heads, head dim) out."""
        assert attention_mask is None, "texts lie end to end: there is nothing to mask"
        assert dropout == 0.0, "nothing is trained here"
        check_others(others)
        sight = sight_of(module, is_causal=is_causal, sliding_window=sliding_window)
        query, key, value = (projected[0].transpose(0, 1) for projected in (query, key, value))
        return attend(query, key, value, groups, scale=scaling, sight=sight).unsqueeze(0), None

    return attention
