"""The functional forward against transformers' own class, and packed linear layers against the public operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embeddaemon.models.jsonfile import read_json
from embeddaemon.workers.engines.torch_engine import attention, encoder, forward, linear
from embeddaemon.workers.engines.torch_engine.attention import groups_of
from embeddaemon.workers.engines.torch_engine.compiling import compiled
from embeddaemon.workers.engines.torch_engine.families import bert
from tests.support.checkpoints import TinyBert
from tests.support.embedding import card_of, cosines, embedder_of

LENGTHS = [1, 2, 2, 7, 7, 7, 20, 31, 31, 45]
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 8e-2}


def native(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    attention.register()
    card = card_of(folder)
    return bert.build(read_json(Path(card.transformer_folder, "config.json")).values, card, dtype)


def tokens(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(sum(lengths)) * 7 % 60 + 1
    positions = torch.cat([torch.arange(length) for length in lengths])
    return ids, positions


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("filler", [0, 10])
def test_functional_forward_equals_the_native_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, filler: int, packs: bool
) -> None:
    if not packs:
        monkeypatch.setattr(linear, "can_pack", lambda _dtype: False)
    model = native(TinyBert(layers=3, heads=2).write(tmp_path), dtype)
    assert encoder.suits(model)
    ids, positions = tokens([*LENGTHS, filler] if filler else LENGTHS)
    groups = groups_of(LENGTHS)
    with torch.inference_mode():
        expected = bert.forward(model, ids, positions, groups)[: sum(LENGTHS)]
        found = encoder.Encoder(model).forward(ids, positions, groups)[: sum(LENGTHS)]
    assert (found - expected).abs().max() < TOLERANCES[dtype]


@pytest.mark.parametrize("length", [1, 13, 31])
def test_text_that_is_alone_in_a_rounded_row_is_the_same(tmp_path: Path, length: int) -> None:
    model = native(TinyBert(layers=3, heads=2).write(tmp_path), torch.bfloat16)
    assert encoder.suits(model)
    ids, positions = tokens([length, 32 - length])
    with torch.inference_mode():
        expected = bert.forward(model, ids, positions, groups_of([length]))[:length]
        found = encoder.Encoder(model).forward(ids, positions, groups_of([length]))[:length]
    assert (found - expected).abs().max() < TOLERANCES[torch.bfloat16]


def test_other_activation_is_left_to_the_native_class(tmp_path: Path) -> None:
    folder = TinyBert(config={"hidden_act": "relu"}).write(tmp_path)
    assert not encoder.suits(native(folder, torch.float32))
    assert embedder_of(folder).embed(["the red planet"]).shape == (1, 32)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_packed_layers_compute_what_the_public_operators_do(dtype: torch.dtype, tolerance: float) -> None:
    if not linear.can_pack(dtype):
        pytest.skip(f"this processor or this torch packs no {dtype}")
    generator = torch.Generator().manual_seed(3)
    shapes = ((24, 16), (24,), (9, 16), (9, 24))
    weight, bias, rows, residual = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
    layer = linear.packed(weight / 4)
    assert layer.is_mkldnn
    expected = torch.nn.functional.linear(rows, weight / 4, bias)
    assert (linear.linear(rows, layer, bias) - expected).abs().max() < tolerance
    assert (linear.linear_gelu(rows, layer, bias) - torch.nn.functional.gelu(expected)).abs().max() < tolerance
    assert (linear.linear_plus(rows, layer, bias, residual) - (expected + residual)).abs().max() < tolerance


def test_layers_are_packed_where_torch_has_onednn() -> None:
    """Guards: operators that went away or compute something else, with which everything is right, and slow."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch gives it no types
        pytest.skip("this torch has no oneDNN")
    assert linear.can_pack(torch.float32)


def test_operator_that_is_missing_is_replaced_by_the_public_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: torch.Tensor) -> torch.Tensor:
        raise AttributeError("no such operator in this torch")

    linear.can_pack.cache_clear()
    monkeypatch.setattr(linear, "_packed", missing)
    try:
        assert not linear.can_pack(torch.float32)
        layer = linear.packed(torch.ones(2, 3))
        assert linear.linear(torch.ones(1, 3), layer, torch.zeros(2)).tolist() == [[3.0, 3.0]]
    finally:
        linear.can_pack.cache_clear()


def test_operator_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    linear.can_pack.cache_clear()
    monkeypatch.setattr(linear, "_packed", lambda weight: weight + 1)
    try:
        assert not linear.can_pack(torch.float32)
    finally:
        linear.can_pack.cache_clear()


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_forward_that_torchscript_does_not_take_runs_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    def refuses(_: object) -> None:
        raise RuntimeError("TorchScript is not supported on this Python")

    model = native(TinyBert(layers=2, heads=2).write(tmp_path), dtype)
    assert encoder.suits(model)
    ids, positions = tokens(LENGTHS)
    expected = encoder.Encoder(model).forward(ids, positions, groups_of(LENGTHS))
    compiled.cache_clear()
    monkeypatch.setattr(torch.jit, "script", refuses)
    try:
        assert compiled(forward.forward) is forward.forward
        found = encoder.Encoder(model).forward(ids, positions, groups_of(LENGTHS))
    finally:
        compiled.cache_clear()
    assert torch.equal(found, expected)


def test_forward_is_compiled_where_it_can_be() -> None:
    assert isinstance(compiled(forward.forward), torch.jit.ScriptFunction)


def test_vectors_of_the_functional_forward_equal_those_of_the_native_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = TinyBert().write(tmp_path)
    texts = ["the red planet", "a", "What moon was known, and why?"]
    ours = embedder_of(folder).embed(texts)
    monkeypatch.setattr(encoder, "suits", lambda _model: False)
    theirs = embedder_of(folder).embed(texts)
    assert np.abs(ours - theirs).max() < 1e-5
    assert cosines(ours, theirs).min() > 1 - 1e-6
