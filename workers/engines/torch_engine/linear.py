"""Linear layers as the CPU computes them fastest: weights packed once by oneDNN, bias and GELU fused into the product.

The operators are torch's own but private, so each is tried when it is first wanted and compared with the public ones;
where one is missing, fails or differs, the public ones compute the same.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from enum import Enum

import torch
from torch.nn import functional

from embeddaemon.telemetry.logs import fields

_LOG = logging.getLogger(__name__)

_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Between the private operators and the public ones on values of about one; rounding in the last place, not more."""


class Activation(Enum):
    """What is fused behind the product; the value is oneDNN's name."""

    NONE = "none"
    GELU = "gelu"
    """With the error function, as BERT has it; not its approximation by tanh."""


Linear = Callable[[torch.Tensor], torch.Tensor]
"""(tokens, in) to (tokens, out)."""


def linear(weight: torch.Tensor, bias: torch.Tensor, activation: Activation = Activation.NONE) -> Linear:
    """A layer of ``weight`` (out, in) and ``bias`` (out,), packed where this processor and this torch can."""
    weight, bias = weight.detach().contiguous(), bias.detach().contiguous()
    if weight.device.type == "cpu" and can_pack(weight.dtype):
        return _packed(weight, bias, activation)
    return _plain(weight, bias, activation)


def _packed(weight: torch.Tensor, bias: torch.Tensor, activation: Activation) -> Linear:
    # Looked up here once: the lookup costs as much as a small layer.
    compute = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001 (torch has no public name for it)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # noqa: SLF001
    name = activation.value
    return lambda rows: compute(rows, packed, bias, name, [], "none")


def _plain(weight: torch.Tensor, bias: torch.Tensor, activation: Activation) -> Linear:
    if activation is Activation.GELU:
        return lambda rows: functional.gelu(functional.linear(rows, weight, bias))
    return lambda rows: functional.linear(rows, weight, bias)


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether the private operators are there and right. Runs operators, so never in a fork server."""
    if dtype not in _TOLERANCES:
        return False
    generator = torch.Generator().manual_seed(1)
    weight, bias, rows = (torch.randn(*shape, generator=generator) for shape in ((48, 32), (48,), (5, 32)))
    weight, bias, rows = (weight / 6).to(dtype), bias.to(dtype), rows.to(dtype)
    try:
        found = [_packed(weight, bias, activation)(rows) for activation in Activation]
    except (RuntimeError, AttributeError) as error:
        _LOG.warning(fields("linear_not_packed", dtype=str(dtype), why=str(error)[:200]))
        return False
    expected = [_plain(weight, bias, activation)(rows) for activation in Activation]
    distance = max((one - other).abs().max().item() for one, other in zip(found, expected, strict=True))
    if distance > _TOLERANCES[dtype]:
        _LOG.warning(fields("linear_not_packed", dtype=str(dtype), why=f"they differ by {distance}"))
    return distance <= _TOLERANCES[dtype]
