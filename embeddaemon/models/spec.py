"""``ModelSpec``: what an operator declares about one model. Metadata and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

AUTO_ESTIMATE = "auto"


class Pooling(Enum):
    """Token vectors to one vector, by the names that sentence-transformers writes into a model's folder."""

    CLS = "cls"
    MEAN = "mean"
    MAX = "max"
    MEAN_SQRT_LEN = "mean_sqrt_len_tokens"
    WEIGHTED_MEAN = "weightedmean"
    LAST_TOKEN = "lasttoken"  # noqa: S105 (a token of text)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBounds:
    """How many workers of one model key may live at once."""

    min: int = 1
    """Started together when the model is loaded."""
    max: int = 1
    """Grown to while requests wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One configured model. Where a field is None, the model's own folder says."""

    name: str
    """What requests call it."""
    source: str
    """``package:NAME``, ``path:DIR`` or ``hub:ORG/NAME[@REVISION]``."""
    sha256: str | Mapping[str, str] | None = None
    """Digest that the weights file must have; where there are several, of each by its name in the folder."""
    weights: str = "copied"
    """``copied``: read into memory of our own; ``sealed``: by way of a copy that nobody can change, checked first."""
    device: str = "auto"
    """``auto`` (mps, then cuda, then cpu), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. A named one never falls back."""
    precision: str = "auto"
    """``auto`` (what is fast here within cosine 0.9995), ``float32``, ``bfloat16``, ``float16`` or ``int8`` (CPUs)."""
    accept_inaccurate: bool = False
    """Whether int8 is served below the floor of its accuracy too."""
    estimate: int | str = AUTO_ESTIMATE
    """Bytes of one worker with its weights, or ``auto``: computed from the weights' header."""
    keep_alive_seconds: float = 300.0
    """How long an idle worker stays; ``math.inf`` for ever, 0 not at all."""
    pinned: bool = False
    """Never evicted."""
    preload: bool = False
    """Loaded at start instead of by the first request."""
    workers: WorkerBounds = field(default_factory=WorkerBounds)
    threads: int | None = None
    """Compute threads per worker; None shares the processor's cores among ``workers.min``."""
    token_budget: int = 8192
    """Most tokens in a micro-batch: the one place that decides batch sizes."""
    max_tokens: int | None = None
    """Tokens of one text beyond which it is cut; at most what the model can do."""
    pooling: tuple[Pooling, ...] | None = None
    normalize: bool | None = None
    """Whether the model's own pipeline ends with unit length."""
    prompts: Mapping[str, str] | None = None
    """Task name to the prompt put before each text; replaces the folder's."""
    default_task: str | None = None
    dimensions: tuple[int, ...] = ()
    """Shorter dimensions that the model was trained to offer (Matryoshka), beside its own."""

    @property
    def is_of_hub(self) -> bool:
        """Fetched before it is loaded, unless it was before."""
        return self.source.startswith("hub:")

    @property
    def stays_for_ever(self) -> bool:
        return math.isinf(self.keep_alive_seconds)
