"""Linear layers as the CPU computes them fastest: weights packed once by oneDNN; bias, GELU, sum in one operator.

The operators are torch's own but private, so they are tried when they are first wanted and compared with the public
ones; where one is missing, fails or differs, weights stay as they are and the public ones compute the same. The three
functions are written in what TorchScript understands (forward.py).
"""

from __future__ import annotations

import functools
import logging

import torch
from torch._jit_internal import is_scripting
from torch.nn import functional

from embeddaemon.telemetry.logs import fields

_LOG = logging.getLogger(__name__)

_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Between the private operators and the public ones on values of about one; rounding in the last place, not more."""


def linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(tokens, in) to (tokens, out). ``weight`` as ``packed`` gave it, ``bias`` (out,)."""
    if weight.is_mkldnn:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")  # noqa: SLF001
        return product
    return functional.linear(rows, weight, bias)


def linear_gelu(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The same, then GELU with the error function, as BERT has it; not its approximation by tanh."""
    if weight.is_mkldnn:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "gelu", [], "none")  # noqa: SLF001
        return product
    return functional.gelu(functional.linear(rows, weight, bias))


def linear_plus(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """The same as ``linear``, then ``residual`` (tokens, out) added."""
    if weight.is_mkldnn:
        if is_scripting():
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, residual, weight, bias, "add")  # noqa: SLF001
        else:  # Python tries the other overload first, whose refusal prints the bias: 3 ms
            product = torch.ops.mkldnn._linear_pointwise.binary(rows, residual, weight, bias, "add")  # noqa: SLF001
        return product
    return functional.linear(rows, weight, bias) + residual


def packed(weight: torch.Tensor) -> torch.Tensor:
    """A layer's ``weight`` (out, in) for these functions: packed where this processor and this torch can."""
    weight = weight.detach().contiguous()
    return _packed(weight) if weight.device.type == "cpu" and can_pack(weight.dtype) else weight


def _packed(weight: torch.Tensor) -> torch.Tensor:
    opaque: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # noqa: SLF001
    return opaque


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether the private operators are there and right. Runs operators, so never in a fork server."""
    if dtype not in _TOLERANCES:
        return False
    generator = torch.Generator().manual_seed(1)
    weight, bias, rows = (torch.randn(*shape, generator=generator) for shape in ((48, 32), (48,), (5, 32)))
    weight, bias, rows = (weight / 6).to(dtype), bias.to(dtype), rows.to(dtype)
    expected = _all_kinds(rows, weight, bias)
    try:
        found = _all_kinds(rows, _packed(weight), bias)
    except (RuntimeError, AttributeError) as error:
        _LOG.warning(fields("linear_not_packed", dtype=str(dtype), why=str(error)[:200]))
        return False
    distance = (found - expected).abs().max().item()
    if not distance <= _TOLERANCES[dtype]:  # not a number is not right either
        _LOG.warning(fields("linear_not_packed", dtype=str(dtype), why=f"they differ by {distance}"))
        return False
    return True


def _all_kinds(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(3, tokens, out)."""
    once = linear(rows, weight, bias)
    return torch.stack([once, linear_gelu(rows, weight, bias), linear_plus(rows, weight, bias, once)])
