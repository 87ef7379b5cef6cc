"""Linear layers of models that are called as modules, packed for the CPU: the same vectors, and nothing held twice."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from embeddaemon.workers.engines.torch_engine import linear, packing
from embeddaemon.workers.engines.torch_engine.packing import PackedLinear, pack

each = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def model_of(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(4)
    inner = nn.Sequential(nn.Linear(24, 40, bias=False), nn.GELU())
    return nn.Sequential(nn.Linear(16, 24), inner, nn.Linear(40, 16), nn.LayerNorm(16)).to(dtype).eval()


@each
@torch.inference_mode()
def test_packed_model_gives_the_same(dtype: torch.dtype) -> None:
    if not linear.can_pack(dtype):
        pytest.skip(f"this processor or this torch packs no {dtype}")
    model = model_of(dtype)
    rows = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(5)).to(dtype)
    expected = model(rows)
    pack(model)
    assert sum(type(module) is PackedLinear for module in model.modules()) == 3
    torch.testing.assert_close(model(rows), expected, atol=1e-5 if dtype is torch.float32 else 3e-2, rtol=1e-2)


def test_layer_is_gone_before_the_next_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the memory of a load: the whole model twice would not fit where once it does."""
    model = model_of(torch.float32)
    layers = [weakref.ref(module) for module in model.modules() if type(module) is nn.Linear]
    alive: list[int] = []

    def counted(weight: torch.Tensor) -> torch.Tensor:
        gc.collect()
        alive.append(sum(layer() is not None for layer in layers))
        return weight

    monkeypatch.setattr(packing, "can_pack", lambda _dtype: True)
    monkeypatch.setattr(packing, "packed", counted)
    pack(model)
    assert alive == [3, 2, 1]


def test_where_nothing_can_be_packed_the_model_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "can_pack", lambda _dtype: False)
    model = model_of(torch.float32)
    parameters = list(model.parameters())
    pack(model)
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
