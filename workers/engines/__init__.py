"""The seam between a worker and what computes in it: ids and lengths in, float32 rows out.

``LoadedModel`` is the seam. The torch engine (``torch_engine``) is the default; each engine is a folder beside it with
a function ``load(order: LoadOrder) -> LoadedModel``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What an engine says about the model that it loaded."""

    engine: str
    family: str
    precision: str
    """In which it computes: ``float32``, ``bfloat16`` or ``float16``."""
    device: str
    dim: int
    parameters: int
    weights_bytes: int
    """Bytes of the weights as they lie in memory now."""
    calibration: str = ""
    """What stands for the scales of int8: with others the vectors are others. Empty where there are none."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as token ids."""

    ids: Ids
    """Special tokens included, cut to the maximum."""
    prompt_tokens: int
    """How many of the first tokens come from the prompt (and the start token with it)."""
    full_length: int
    """Tokens before cutting; larger than ``len(ids)`` when the text was cut."""


class LoadedModel(Protocol):
    """A model in memory, ready to compute. Tokenizing may run beside computing."""

    @property
    def facts(self) -> EngineFacts: ...

    @property
    def is_reentrant(self) -> bool:
        """Whether several threads may be in ``forward`` at once, each with the threads that it asked for."""
        ...

    def tokenize(
        self, texts: Sequence[str], *, prompt: str, max_tokens: int, between: Callable[[], None] | None = None
    ) -> list[Encoded]:
        """Each text with the prompt before it, as ids. Never pads. ``full_length`` tells what was cut.

        ``between`` is called again and again where there is more than some milliseconds of work.
        """
        ...

    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        """Texts laid end to end, equal lengths beside each other, to pooled vectors.

        ``ids`` (tokens,), ``lengths`` (texts,) with ``lengths.sum() == tokens``; ``prompt_lengths`` (texts,) are left
        out of the pooling, None when nothing is. Returns (texts, pooled_dim) float32, the same whatever requests ask
        for: what stands behind the pooling is ``project``'s.
        """
        ...

    def project(self, rows: Rows, dimensions: int) -> Rows:
        """Pooled vectors (texts, pooled_dim) through the model's head for so many dimensions.

        Returns (texts, dim of the head) float32 before any normalisation: whole vectors, also where fewer dimensions
        are to be cut from them. Where the model has no head, that is ``rows`` itself.
        """
        ...

    def use_threads(self, threads: int) -> None:
        """The thread that calls this computes with so many threads from now on; called before its first forward."""
        ...


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What a process holds for its device."""

    own_bytes: int
    """Of the device's own memory, its context included."""
    unified_bytes: int
    """Of the host's, where device and host have one memory: private to the process, but not counted as its own."""


@runtime_checkable
class OnDevice(Protocol):
    """What a ``LoadedModel`` in the memory of a device can do as well. Any thread may ask."""

    def device_memory(self) -> DeviceMemory:
        """What the process holds now, free parts of it too."""
        ...

    def give_back(self) -> None:
        """Gives the device what is free inside the process."""
        ...


def device_memory(model: LoadedModel) -> DeviceMemory:
    """Nothing, where the model is in no device's memory."""
    return model.device_memory() if isinstance(model, OnDevice) else DeviceMemory(0, 0)


class DeviceFull(Exception):
    """The device had no memory left for this forward pass. It is as well as before, and less at once may fit."""


class DeviceLost(Exception):
    """The device computes nothing any more in this process, which must end: its successor may find it well."""
