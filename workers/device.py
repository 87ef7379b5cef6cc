"""Which device to compute on, and in which precision: what was asked for, or what this machine does fast.

A device by name is that device or an error. Asking about CUDA may initialise its driver: never
called in the fork server.
"""

from __future__ import annotations

import logging

import torch

from embeddaemon.config.hardware import computes_bfloat16
from embeddaemon.errors import UnsupportedModel

_LOG = logging.getLogger(__name__)

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_AMPERE = 8
"""Compute capability from which CUDA devices have bfloat16 units."""


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
        return torch.bfloat16 if _computes_bfloat16(device) else torch.float32
    dtype = _PRECISIONS.get(precision)
    if dtype is None:
        raise UnsupportedModel(f"precision {precision!r} is not known; allowed are auto, {', '.join(_PRECISIONS)}")
    if dtype is torch.float16 and device.type == "cpu":
        raise UnsupportedModel("precision float16 is not served on a CPU; use bfloat16, float32 or auto")
    return dtype


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= _AMPERE
    return device.type == "cpu" and computes_bfloat16()
