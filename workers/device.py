"""Which device to compute on, and in which precision: what was asked for, or what this machine does fast.

A device by name is that device or an error. Asking about CUDA may initialise its driver: never
called in the fork server.
"""

from __future__ import annotations

import logging

import torch

from embeddaemon.config.hardware import computes_bfloat16, computes_int8
from embeddaemon.errors import UnsupportedModel

_LOG = logging.getLogger(__name__)

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}

_AMPERE = 8
"""Compute capability from which CUDA devices have bfloat16 units."""
_VOLTA = 7
"""Compute capability from which they have float16 units; on older ones float16 is slower than float32."""
_MACOS_WITH_BFLOAT16 = 14


def resolve_device(device: str) -> torch.device:
    """``auto`` to mps, then cuda, then cpu; a name to itself. Raises UnsupportedModel when that device is not there."""
    kind, _, index = device.partition(":")
    if device == "auto":
        found = "mps" if _has_mps() else "cuda" if torch.cuda.is_available() else "cpu"
        _LOG.info("device auto is %s", found)
        return torch.device(found)
    if device == "cpu" or (device == "mps" and _has_mps()):
        return torch.device(device)
    if kind == "cuda" and (not index or index.isdecimal()):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) < count:
            return torch.device("cuda", int(index or 0))
        raise UnsupportedModel(f"device {device} is not there: this machine has {count} CUDA devices")
    if device == "mps":
        raise UnsupportedModel("device mps is not there: it needs macOS on Apple silicon and a torch built for it")
    raise UnsupportedModel(f"device {device!r} is not known; allowed are auto, cpu, cuda, cuda:N and mps")


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """``auto`` to what the device does fast within cosine 0.9995, a name to itself. Raises UnsupportedModel."""
    if precision == "auto":
        return _fast(device)
    dtype = _PRECISIONS.get(precision)
    if dtype is None:
        raise UnsupportedModel(f"precision {precision!r} is not known; allowed are auto, {', '.join(_PRECISIONS)}")
    if dtype is torch.int8:
        _check_int8(device)
    if dtype is torch.float16 and device.type == "cpu":
        raise UnsupportedModel("precision float16 is not served on a CPU; use bfloat16, float32 or auto")
    if dtype is torch.bfloat16 and device.type == "mps" and not _has_macos(_MACOS_WITH_BFLOAT16):
        raise UnsupportedModel(f"precision bfloat16 on mps needs macOS {_MACOS_WITH_BFLOAT16}; use float16 or auto")
    return dtype


def _check_int8(device: torch.device) -> None:
    if device.type != "cpu":
        raise UnsupportedModel(f"precision int8 is served on CPUs, not on {device.type}; use auto")
    if not computes_int8():
        raise UnsupportedModel(
            "precision int8 needs a processor with AVX512-VNNI, AVX-VNNI or AMX, which this one does not have: "
            "8 bits would be slower here than more; use auto"
        )


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def _has_macos(version: int) -> bool:
    return torch.backends.mps.is_macos_or_newer(version, 0)


def _fast(device: torch.device) -> torch.dtype:
    # On mps 16 bits are hardly faster for models of this size, and nobody has measured here what they lose.
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)[0]
        return torch.bfloat16 if capability >= _AMPERE else torch.float16 if capability >= _VOLTA else torch.float32
    return torch.bfloat16 if device.type == "cpu" and computes_bfloat16() else torch.float32
