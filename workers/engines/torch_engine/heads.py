"""Heads: dense layers from the pooled vector to the model's own, in float32, one after the other.

All heads of a model are in memory beside one body, for they are small; which one a vector goes through, its request
says. What stands in the folder was checked in models/heads.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from embeddaemon.errors import CorruptModel
from embeddaemon.models.card import Dense, Head, ModelCard
from embeddaemon.workers import checkpoint
from embeddaemon.workers.engines import Rows

_AT_ONCE = 256
"""Rows: what a device has to hold of a large request."""


@dataclass(frozen=True, slots=True)
class _Layer:
    weight: torch.Tensor
    """(out, in)"""
    bias: torch.Tensor | None
    """(out,)"""
    activate: Callable[[torch.Tensor], torch.Tensor]


class Heads:
    """The heads of one model on one device; where it has none, a pooled vector is the model's own."""

    def __init__(self, card: ModelCard, device: torch.device) -> None:
        """Raises CorruptModel."""
        self._card = card
        self._device = device
        self._layers = {head.dim: [_load(card, dense, device) for dense in head.layers] for head in card.heads}

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that is held."""
        layers = [layer for chain in self._layers.values() for layer in chain]
        return [tensor for layer in layers for tensor in (layer.weight, layer.bias) if tensor is not None]

    def project(self, rows: Rows, dimensions: int) -> Rows:
        """See LoadedModel."""
        head = self._card.head_for(dimensions)
        return rows if head is None else self._through(head, rows)

    @torch.inference_mode()
    def _through(self, head: Head, rows: Rows) -> Rows:
        projected = torch.empty(len(rows), head.dim)
        for start in range(0, len(rows), _AT_ONCE):
            part = torch.from_numpy(rows[start : start + _AT_ONCE]).to(self._device)  # (texts, pooled_dim)
            for layer in self._layers[head.dim]:
                part = layer.activate(functional.linear(part, layer.weight, layer.bias))  # (texts, out)
            projected[start : start + _AT_ONCE] = part
        vectors: Rows = projected.numpy()
        return vectors


def _load(card: ModelCard, dense: Dense, device: torch.device) -> _Layer:
    tensors = checkpoint.read_weights(card, dense.file, torch.float32)
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    shapes = (None if weight is None else tuple(weight.shape), None if bias is None else tuple(bias.shape))
    if shapes != ((dense.out_features, dense.in_features), (dense.out_features,) if dense.has_bias else None):
        raise CorruptModel(f"{card.folder}/{dense.file} is not what its config.json says any more")
    assert weight is not None, "its shape was just compared"
    activate: Callable[[torch.Tensor], torch.Tensor] = getattr(nn, dense.activation)()
    return _Layer(weight.to(device), None if bias is None else bias.to(device), activate)
