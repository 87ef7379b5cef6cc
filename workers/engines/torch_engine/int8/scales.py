"""The file that keeps what calibration found, one per weights and version of torch. I/O, and every field checked.

It lies in ``int8/`` of the daemon's state folder. Whatever is wrong with it (torn, of another version, in a folder that
others can write) makes it as good as absent: the model is calibrated again, with one line in the log.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from embeddaemon.telemetry.logs import fields
from embeddaemon.workers.engines.torch_engine.int8.plan import CODES, Accuracy, LayerPlan, Plan, Steps

_LOG = logging.getLogger(__name__)

_FORMAT = 1
_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the model that a plan is for."""

    layers: int
    hidden: int
    intermediate: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """A plan, what it was made from, and what it is worth."""

    plan: Plan
    accuracy: Accuracy
    texts: str
    """``own`` for the prose that comes with the program, else the name of the user's file."""


class _Wrong(Exception):
    """Why a file cannot be used."""


def path_of(state_folder: Path, weights_digest: str) -> Path:
    """Where the scales for these weights are kept, for this version of torch."""
    version = hashlib.sha256(f"{_FORMAT} {torch.__version__}".encode()).hexdigest()[:8]
    return state_folder / "int8" / f"{weights_digest}-{version}.json"


def read(path: Path, weights_digest: str, shape: Shape) -> Calibration | None:
    """What the file says; None, with a line in the log, where there is none that can be used."""
    try:
        raw = _read_safely(path)
        return _parsed(raw, weights_digest, shape)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, _Wrong) as error:
        _LOG.warning(fields("int8_scales_not_used", path=path, why=f"{type(error).__name__}: {error}"[:300]))
        return None


def write(path: Path, weights_digest: str, calibration: Calibration) -> bool:
    """Keeps it, whole or not at all; False, with a line in the log, where the folder cannot be written."""
    content = {
        "format": _FORMAT,
        "torch": torch.__version__,
        "weights": weights_digest,
        "texts": calibration.texts,
        "accuracy": asdict(calibration.accuracy),
        "layers": [asdict(layer) for layer in calibration.plan.layers],
    }
    document = {"sha256": _digest(content), "content": content}
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _check_owner(path.parent)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False, encoding="utf-8") as file:
            json.dump(document, file)
            os.fchmod(file.fileno(), 0o644)  # no secret: who calibrates may be another than the daemon's user
        Path(file.name).replace(path)
    except (OSError, _Wrong) as error:
        _LOG.warning(fields("int8_scales_not_kept", path=path, why=f"{type(error).__name__}: {error}"[:300]))
        return False
    return True


def _read_safely(path: Path) -> bytes:
    _check_owner(path.parent)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 (a descriptor that was opened without following links)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Wrong("it is no plain file")
        if status.st_uid not in (os.geteuid(), 0) or status.st_mode & stat.S_IWOTH:
            raise _Wrong("others could have written it")
        if status.st_size > _MAX_BYTES:
            raise _Wrong(f"it is larger than {_MAX_BYTES} bytes")
        return file.read(_MAX_BYTES)


def _check_owner(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise _Wrong(f"{folder} is not a folder of its own (a link, or a file)")
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & stat.S_IWOTH:
        raise _Wrong(f"others can write to {folder}")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _parsed(raw: bytes, weights_digest: str, shape: Shape) -> Calibration:
    document = json.loads(raw)
    content = document["content"]
    if document["sha256"] != _digest(content):
        raise _Wrong("its digest does not match")
    found = (content["format"], content["torch"], content["weights"])
    if found != (_FORMAT, torch.__version__, weights_digest):
        raise _Wrong("it is of another format, another torch or other weights")
    layers = tuple(_layer(layer, shape) for layer in content["layers"])
    if len(layers) != shape.layers:
        raise _Wrong(f"it is for {len(layers)} layers, the model has {shape.layers}")
    accuracy = content["accuracy"]
    measured = Accuracy(_number(accuracy["lowest"]), _number(accuracy["mean"]), int(accuracy["texts"]))
    return Calibration(Plan(layers), measured, str(content["texts"]))


def _layer(values: Mapping[str, Any], shape: Shape) -> LayerPlan:
    outliers = tuple(int(unit) for unit in values["outliers"])
    if len(set(outliers)) != len(outliers) or not all(0 <= unit < shape.intermediate for unit in outliers):
        raise _Wrong("its outliers are no units of the model")
    return LayerPlan(
        into_smoothing=_smoothing(values["into_smoothing"], shape),
        into=_steps(values["into"]),
        out=_steps(values["out"]),
        wide_smoothing=_smoothing(values["wide_smoothing"], shape),
        wide=_steps(values["wide"]),
        narrow=_steps(values["narrow"]),
        outliers=outliers,
        narrow_outliers=_steps(values["narrow_outliers"]),
    )


def _smoothing(values: object, shape: Shape) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != shape.hidden:
        raise _Wrong(f"its smoothing is not of {shape.hidden} channels")
    return tuple(_positive(value) for value in values)


def _steps(values: Mapping[str, Any]) -> Steps:
    zero = values["zero"]
    if not isinstance(zero, int) or not 0 <= zero <= CODES:
        raise _Wrong("a zero is no code")
    return Steps(_positive(values["scale"]), zero)


def _positive(value: object) -> float:
    number = _number(value)
    if number <= 0:
        raise _Wrong("a scale is not positive")
    return number


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _Wrong("a number is missing or not finite")
    return float(value)
