"""What a model's activations are in float32: the range of every channel, over some texts, by hooks on its own class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn
from transformers.models.bert.modeling_bert import BertLayer

from embeddaemon.workers.engines.torch_engine.encoder import BertLike

_SAMPLED_ROWS = 24
"""Of each forward; clipping is chosen on a few hundred rows from everywhere."""


@dataclass(slots=True)
class Range:
    """Of one product's input, channel by channel."""

    low: torch.Tensor | None = None
    high: torch.Tensor | None = None
    samples: list[torch.Tensor] = field(default_factory=list)

    def see(self, rows: torch.Tensor) -> None:
        """``rows`` (tokens, channels)."""
        low, high = rows.aminmax(dim=0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        self.samples.append(rows[:: max(1, len(rows) // _SAMPLED_ROWS)].clone())

    def bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lowest and highest of each channel."""
        assert self.low is not None, "nothing was observed"
        assert self.high is not None, "nothing was observed"
        return self.low, self.high


@dataclass(frozen=True, slots=True)
class LayerObserved:
    """The inputs of one layer's four products."""

    into: Range = field(default_factory=Range)
    out: Range = field(default_factory=Range)
    wide: Range = field(default_factory=Range)
    narrow: Range = field(default_factory=Range)


@contextmanager
def observing(model: BertLike) -> Iterator[list[LayerObserved]]:
    """Sees whatever the model computes inside the ``with``."""
    layers = [LayerObserved() for _ in model.encoder.layer]
    with ExitStack() as hooks:
        for module, observed in zip(model.encoder.layer, layers, strict=True):
            layer = cast("BertLayer", module)  # a list of modules only
            for dense, seen in (
                (layer.attention.self.query, observed.into),
                (layer.attention.output.dense, observed.out),
                (layer.intermediate.dense, observed.wide),
                (layer.output.dense, observed.narrow),
            ):
                hooks.callback(_hook(dense, seen))
        yield layers


def _hook(dense: nn.Module, seen: Range) -> Callable[[], None]:
    def see(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.see(inputs[0].flatten(0, -2))

    return dense.register_forward_pre_hook(see).remove
