"""The linear layers of a model that is called as modules, in the form that the CPU computes fastest (linear.py).

Activations stay operators of their own: measured in bf16 and float32, GELU or SiLU inside the product, and the product
with a gate, take as long as after it. So do norms: torch's RMSNorm is no quicker than the classes' own.
"""

from __future__ import annotations

import torch
from torch import nn

from embeddaemon.workers.engines.torch_engine.linear import can_pack, linear, packed


class PackedLinear(nn.Module):
    """As the layer that it is made of. Its weight is opaque, so it is no parameter: it cannot be saved or moved."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight = packed(layer.weight)
        bias: torch.Tensor | None = layer.bias  # torch says that it is always there
        self.bias = None if bias is None else bias.detach()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        return linear(rows, self.weight, self.bias)


def pack(model: nn.Module) -> None:
    """Replaces the linear layers of a model on the CPU by packed ones, where this processor and this torch can."""
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    for name in names:  # nothing else holds a layer, so what it held is free before the next is packed
        if can_pack(_layer(model, name).weight.dtype):
            model.set_submodule(name, PackedLinear(_layer(model, name)))


def _layer(model: nn.Module, name: str) -> nn.Linear:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear), f"{name} became something else"
    return layer
