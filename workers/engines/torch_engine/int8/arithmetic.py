"""Linear layers on 8 bits: activations unsigned with one scale per tensor, weights signed with one per output.

oneDNN's operators in torch are private, so they are tried when they are first wanted: the result is compared with the
same arithmetic on dequantised numbers, and the time with that of a product in float32, for where a processor lacks the
instructions torch computes thousands of times slower. Without them the public arithmetic gives the same vectors.
The functions are written in what TorchScript understands (forward.py).
"""

import functools
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

from embeddaemon.telemetry.logs import fields

_LOG = logging.getLogger(__name__)

_TOLERANCE = 2e-2
"""Between the private operators and the public ones on values of about one; rounding of sums, not more."""
_SLOWEST = 20.0
"""How many times as long as the product in float32 a product may take; the reference kernel takes thousands."""

_WEIGHT_STEPS = 127


_WHOLE = 1.5 * 2.0**23
"""The float32 whose last bit is worth one, with room on both sides; as a literal in ``quantize``, and 255 more."""


class Codes(NamedTuple):
    """How float32 becomes codes: ``code = round(value * factor) + zero``, moved into 0 to 255."""

    factor: torch.Tensor
    """(channels,): one over the scale, and over what smoothing divides the channel by."""
    offset: torch.Tensor
    """(channels,): ``_WHOLE`` and the code of zero."""


class Projection(NamedTuple):
    """One linear layer on codes, of which each stands for ``(code - zero) * scale``."""

    weight: torch.Tensor
    """Packed by oneDNN, or (out, in) in float32, dequantised."""
    weight_scales: torch.Tensor
    """(out,)."""
    weight_zeros: torch.Tensor
    """(out,), all zero."""
    bias: torch.Tensor
    """(out,) float32."""
    scale: float
    zero: int


class Scratch(NamedTuple):
    """Memory of one forward for what lies between float32 and codes: the same bytes, seen twice."""

    floats: torch.Tensor
    """(tokens, channels) float32, at least as many tokens as are quantised at once."""
    bits: torch.Tensor
    """int32."""


def scratch(tokens: int, channels: int) -> Scratch:
    """New memory; several threads may be in one model's forward."""
    floats = torch.empty(tokens, channels)
    return Scratch(floats, floats.view(torch.int32))


def quantize(rows: torch.Tensor, codes: Codes, between: Scratch) -> torch.Tensor:
    """(tokens, channels) to uint8."""
    tokens = rows.shape[0]
    floats = between.floats[:tokens]
    if rows.dtype != torch.float32:
        rows = floats.copy_(rows)
    # Added to a number whose last bit is worth one, a value is rounded, and its code is the lowest byte.
    torch.addcmul(codes.offset, rows, codes.factor, out=floats).clamp_(12582912.0, 12583167.0)
    return between.bits[:tokens].to(torch.uint8)


def codes_by(scale: float, zero: int, smoothing: torch.Tensor) -> Codes:
    """For a tensor quantised by ``scale`` and ``zero`` after division by ``smoothing`` (channels,)."""
    return Codes(1.0 / (smoothing * scale), torch.full_like(smoothing, _WHOLE + zero))


def dequantize(codes: torch.Tensor, scale: float, zero: int) -> torch.Tensor:
    """Codes to float32."""
    return (codes.float() - zero) * scale


def project(codes: torch.Tensor, by: Projection, like: torch.Tensor) -> torch.Tensor:
    """(tokens, in) uint8 to (tokens, out) of the type of ``like``."""
    if by.weight.is_mkldnn:
        return torch.ops.onednn.qlinear_pointwise(  # type: ignore[no-any-return]
            codes, by.scale, by.zero, by.weight, by.weight_scales, by.weight_zeros, by.bias,
            1.0, 0, like.dtype, "none", [], "",
        )  # fmt: skip
    return functional.linear(dequantize(codes, by.scale, by.zero), by.weight, by.bias).to(like.dtype)


def project_gelu(codes: torch.Tensor, by: Projection, scale: float, zero: int) -> torch.Tensor:
    """The same, then GELU with the error function, then codes again: (tokens, out) uint8."""
    if by.weight.is_mkldnn:
        return torch.ops.onednn.qlinear_pointwise(  # type: ignore[no-any-return]
            codes, by.scale, by.zero, by.weight, by.weight_scales, by.weight_zeros, by.bias,
            scale, zero, torch.uint8, "gelu", [], "none",
        )  # fmt: skip
    widened = functional.linear(dequantize(codes, by.scale, by.zero), by.weight, by.bias)
    return (functional.gelu(widened) / scale + zero).round().clamp(0.0, 255.0).to(torch.uint8)


def project_onto(codes: torch.Tensor, by: Projection, residual: torch.Tensor) -> torch.Tensor:
    """Adds the layer's output to ``residual`` (tokens, out) in float32, which is written over, and returns it."""
    if by.weight.is_mkldnn:
        return torch.ops.onednn.qlinear_pointwise(  # type: ignore[no-any-return]
            codes, by.scale, by.zero, by.weight, by.weight_scales, by.weight_zeros, residual, by.bias,
            1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", [], "",
        )  # fmt: skip
    return residual.add_(functional.linear(dequantize(codes, by.scale, by.zero), by.weight, by.bias))


def projection(weight: torch.Tensor, bias: torch.Tensor, scale: float, zero: int) -> Projection:
    """Quantises a layer's ``weight`` (out, in) and packs it where this processor and this torch can."""
    return _projection(weight, bias, scale, zero, _packed if can_pack() else dequantized)


def _projection(
    weight: torch.Tensor, bias: torch.Tensor, scale: float, zero: int, hold: Callable[..., torch.Tensor]
) -> Projection:
    weight = weight.detach().float()
    scales = (weight.abs().amax(dim=1) / _WEIGHT_STEPS).clamp(min=torch.finfo(torch.float32).tiny)
    codes = (weight / scales.unsqueeze(1)).round().clamp(-_WEIGHT_STEPS, _WEIGHT_STEPS).to(torch.int8)
    zeros = torch.zeros(len(scales), dtype=torch.int8)
    return Projection(hold(codes, scales), scales, zeros, bias.detach().float().contiguous(), scale, zero)


def dequantized(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """A weight for the public arithmetic."""
    return codes.float() * scales.unsqueeze(1)


def _packed(codes: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    opaque: torch.Tensor = torch.ops.onednn.qlinear_prepack(codes, None)
    return opaque


@functools.cache
def can_pack() -> bool:
    """Whether the private operators are there, right, and not absurdly slow. Never asked in a fork server."""
    why = _why_not_packed()
    if why is not None:
        _LOG.warning(fields("int8_not_packed", why=why))
    return why is None


def _why_not_packed() -> str | None:
    generator = torch.Generator().manual_seed(1)
    weight, bias, rows = (torch.randn(*shape, generator=generator) for shape in ((192, 128), (192,), (64, 128)))
    codes = quantize(rows, codes_by(0.03, 120, torch.ones(128)), scratch(64, 128))
    public = _projection(weight / 12, bias, 0.03, 120, dequantized)
    expected = _all_kinds(codes, public)
    try:
        private = _projection(weight / 12, bias, 0.03, 120, _packed)
        found = _all_kinds(codes, private)
    except (RuntimeError, AttributeError) as error:
        return str(error)[:200]
    distance = (found - expected).abs().max().item()
    if not distance <= _TOLERANCE:  # not a number is not right either
        return f"they differ by {distance}"
    ratio = _seconds(codes, private) / _seconds(codes, public)
    return f"they take {ratio:.0f} times as long as float32" if ratio > _SLOWEST else None


def _all_kinds(codes: torch.Tensor, by: Projection) -> torch.Tensor:
    """(3, tokens, out)."""
    once = project(codes, by, by.bias)
    # Its codes may differ by one where a value lies between two: steps small enough to stay within the tolerance.
    widened = dequantize(project_gelu(codes, by, 0.016, 12), 0.016, 12)
    return torch.stack([once, widened, project_onto(codes, by, once.clone())])


def _seconds(codes: torch.Tensor, by: Projection) -> float:
    """The shortest of three, so that a busy machine does not look like a slow operator."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        project(codes, by, by.bias)
        taken.append(time.perf_counter() - start)
    return min(taken)
