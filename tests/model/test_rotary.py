"""The functional forward of GTE and NomicBERT, on the CPU and as accelerators have it, against the native classes."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embeddaemon.models.jsonfile import read_json
from embeddaemon.workers.engines.torch_engine import attention, linear, varlen
from embeddaemon.workers.engines.torch_engine.compiling import compiled
from embeddaemon.workers.engines.torch_engine.families import family_of, rotary
from embeddaemon.workers.engines.torch_engine.row import positions_of
from tests.support.embedding import card_of
from tests.support.families.gte import TinyGte
from tests.support.families.nomic import TinyNomic

TINY = {"gte": TinyGte(layers=3), "gte without types": TinyGte(token_types=0, heads=2), "nomic": TinyNomic(heads=2)}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_functional_forwards_equal_the_native_class(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    attention.register()
    card = card_of(TINY[name].write(tmp_path))
    family = family_of(card)
    module: Any = family.build(read_json(tmp_path / "config.json").values, card, dtype)
    lengths = np.array([1, 2, 2, 7, 7, 7, 20, 31, 90], dtype=np.int32)
    numbers = np.arange(lengths.sum(), dtype=np.int32) * 7 % 90
    ids, positions = (torch.from_numpy(part).long() for part in (numbers, positions_of(numbers, lengths)))
    groups = attention.groups_of(lengths.tolist())
    with torch.inference_mode():
        expected = family.forward(module, ids, positions, groups)
        there = rotary.DeviceRotaryEncoder(module, rotary.take_weights(deepcopy(module)), varlen.by_group)
        for encode in (rotary.functional(module), there.forward):
            found = encode(ids, positions, groups)
            assert found.dtype == dtype
            assert (found - expected).abs().max() < (1e-5 if dtype is torch.float32 else 8e-2)


@pytest.mark.parametrize("name", TINY)
def test_layers_leave_the_model_and_nothing_is_held_twice(name: str, tmp_path: Path) -> None:
    card = card_of(TINY[name].write(tmp_path))
    module: Any = family_of(card).build(read_json(tmp_path / "config.json").values, card, torch.float32)
    bias = module.layers[0].post_mlp_layernorm.bias.data_ptr()
    weights = rotary.take_weights(module)
    assert weights[0][0].data_ptr() == module.embeddings.word_embeddings.weight.data_ptr()
    assert weights[1][-1].data_ptr() == bias
    assert not [name for name, _ in module.named_parameters() if name.startswith("layers")]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there is no TorchScript")
def test_forward_is_compiled() -> None:
    """Guards: a way of writing that TorchScript does not know, with which everything is right, and slow."""
    assert isinstance(compiled(rotary.forward), torch.jit.ScriptFunction)


@pytest.mark.parametrize("name", TINY)
def test_linear_layers_of_the_functional_forward_are_packed(name: str, tmp_path: Path) -> None:
    """Guards: weights that went through unpacked, with which everything is right, and slow."""
    if not linear.can_pack(torch.float32):
        pytest.skip("this processor or this torch packs nothing")
    card = card_of(TINY[name].write(tmp_path))
    module: Any = family_of(card).build(read_json(tmp_path / "config.json").values, card, torch.float32)
    for layer in rotary.take_weights(module)[1:]:
        assert [place for place, tensor in enumerate(layer) if tensor.is_mkldnn] == [0, 2, 6, 7, 9]
