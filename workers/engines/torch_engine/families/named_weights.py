"""Weights of a family whose forward is written here: parameters by the names of the published file, and nothing else.

They are what ``build`` gives; the family's functional form takes them and packs its linear layers anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from embeddaemon.errors import CorruptModel
from embeddaemon.models.card import ModelCard
from embeddaemon.workers import checkpoint
from embeddaemon.workers.engines.torch_engine.linear import packed

Shapes = dict[str, tuple[int, ...]]
"""By tensor name."""


class NamedWeights(nn.Module):
    """Tensors by their names, of given shapes; on ``meta`` until a checkpoint is assigned."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, object], card: ModelCard) -> None:
        super().__init__()
        self.published = config
        self.card = card
        for name, shape in shapes.items():
            path, _, own_name = name.rpartition(".")
            parent: nn.Module = self
            for part in path.split("."):
                if part not in dict(parent.named_children()):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parameter = nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)
            parent.register_parameter(own_name, parameter)

    def tensor(self, name: str) -> torch.Tensor:
        return self.get_parameter(name).detach()

    def pair(self, name: str) -> list[torch.Tensor]:
        """Weight and bias of a norm."""
        return [self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")]

    def linear(self, *names: str) -> list[torch.Tensor]:
        """Packed weight and bias of linear layers with the same input, as one layer."""
        weights, biases = (torch.cat([self.tensor(f"{name}.{part}") for name in names]) for part in ("weight", "bias"))
        return [packed(weights), biases]


def build(
    shapes: Mapping[str, tuple[int, ...]],
    config: Mapping[str, object],
    card: ModelCard,
    dtype: torch.dtype,
    prefixes: Iterable[str],
) -> NamedWeights:
    """The card's weights, on the CPU. Raises CorruptModel for any that is missing, left over or of another shape."""
    if card.hidden % card.attention_heads:
        raise CorruptModel(
            f"{card.transformer_folder}/config.json: {card.hidden} dimensions cannot be divided among "
            f"{card.attention_heads} heads"
        )
    weights = NamedWeights(shapes, config, card)
    checkpoint.assign(weights, checkpoint.read_tensors(card, dtype), card, prefixes=prefixes)
    weights.requires_grad_(requires_grad=False)
    return weights


def linear_shapes(name: str, rows: int, columns: int) -> Shapes:
    """Of a linear layer with a bias."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm_shapes(name: str, size: int) -> Shapes:
    """Of a norm with a bias."""
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}
