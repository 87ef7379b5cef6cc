"""``Plan``: how every activation of a model is quantised. What calibration finds, and what its file keeps."""

from __future__ import annotations

from dataclasses import dataclass

CODES = 255
"""The largest code of an activation."""


@dataclass(frozen=True, slots=True)
class Steps:
    """A tensor's codes: each stands for ``(code - zero) * scale``."""

    scale: float
    zero: int


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """The inputs of one layer's products."""

    into_smoothing: tuple[float, ...]
    """What each channel is divided by before it is quantised; the weights are multiplied by it."""
    into: Steps
    out: Steps
    wide_smoothing: tuple[float, ...]
    wide: Steps
    narrow: Steps
    outliers: tuple[int, ...]
    """Units of the wide layer that are quantised apart; none where that is not worth its time."""
    narrow_outliers: Steps


@dataclass(frozen=True, slots=True)
class Plan:
    """One model's, layer by layer."""

    layers: tuple[LayerPlan, ...]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Cosines between vectors in int8 and in float32, over texts that were not used to calibrate."""

    lowest: float
    mean: float
    texts: int


def steps_between(low: float, high: float) -> Steps:
    """Codes from ``low`` to ``high``; zero is always one of them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-6) / CODES
    return Steps(scale, round(-low / scale))
