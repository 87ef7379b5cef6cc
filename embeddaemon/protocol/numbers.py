"""Vectors as numbers of fewer bits, and back, by the definitions of sentence-transformers 6.2.

Its ``quantize_embeddings``, given the ranges; which ranges, a worker decides (workers/ranges.py). Needs numpy, which
the supervisor does without: names and types are in precisions.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddaemon.protocol.precisions import Precision

Numbers = NDArray[Any]
"""(texts, columns) of a precision's dtype."""
Float32 = NDArray[np.float32]

_STEPS = 255
"""Between the lowest and the highest of 256 numbers."""


def written(vectors: Float32, precision: Precision, ranges: Float32 | None) -> Numbers:
    """Vectors (texts, dim) as a precision's numbers; ``ranges`` (2, dim) where it has some, values beyond are clipped.

    With float16 a value beyond 65,504 becomes infinite.
    """
    match precision.name:
        case "float32":
            return vectors
        case "float16":
            with np.errstate(over="ignore"):
                return vectors.astype(precision.dtype)
        case "int8" | "uint8":
            assert ranges is not None, "8 bits without ranges: bug"
            steps = np.floor((vectors - ranges[0]) / _step(ranges)).clip(0, _STEPS).astype(np.uint8)
            return _signed(steps) if precision.name == "int8" else steps
        case _:
            bits = np.packbits(vectors > 0, axis=-1)
            return _signed(bits) if precision.name == "binary" else bits


def read(numbers: Numbers, precision: Precision, dim: int, ranges: Float32 | None) -> Float32:
    """What numbers (texts, columns) stand for, as float32 (texts, dim): the middle of a step; 1 and -1 for bits."""
    match precision.name:
        case "float32" | "float16":
            return numbers.astype(np.float32)
        case "int8" | "uint8":
            assert ranges is not None, "8 bits without ranges: bug"
            steps = _signed_back(numbers) if precision.name == "int8" else numbers
            values: Float32 = ranges[0] + (steps.astype(np.float32) + np.float32(0.5)) * _step(ranges)
            return values
        case _:
            bytes_ = _signed_back(numbers) if precision.name == "binary" else numbers
            bits = np.unpackbits(bytes_, axis=-1, count=dim)
            return bits.astype(np.float32) * 2 - 1


def _step(ranges: Float32) -> Float32:
    steps: Float32 = (ranges[1] - ranges[0]) / np.float32(_STEPS)
    return np.where(steps == 0, np.float32(1), steps)


def _signed(numbers: NDArray[np.uint8]) -> NDArray[np.int8]:
    """128 less."""
    return (numbers ^ np.uint8(128)).view(np.int8)


def _signed_back(numbers: Numbers) -> NDArray[np.uint8]:
    return np.ascontiguousarray(numbers).view(np.uint8) ^ np.uint8(128)
