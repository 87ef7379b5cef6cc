"""Functions of tensors without Python around them: TorchScript, as long as there is one."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from typing import cast

import torch

from embeddaemon.telemetry.logs import fields

_LOG = logging.getLogger(__name__)


@functools.cache
def compiled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function compiled; where TorchScript is not to be had (Python 3.14 and later), the function itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated, and nothing else does this without a C++ compiler
            return cast("Callable[..., torch.Tensor]", torch.jit.script(function))
    except Exception as error:  # noqa: BLE001 (it raises what it likes)
        _LOG.warning(fields("forward_not_compiled", of=function.__module__, why=str(error)[:200]))
        return function
