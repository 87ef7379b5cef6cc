"""Weights are read as they lie in the file, converted on the way, and hashed whole."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from embeddaemon.errors import CorruptModel
from embeddaemon.models.card import ModelCard
from embeddaemon.workers.checkpoint import read_weights
from tests.support.checkpoints import TinyBert
from tests.support.embedding import card_of

LONGER_THAN_WHAT_IS_READ_AT_ONCE = 700_001
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    return card_of(TinyBert().write(tmp_path))


def _save(card: ModelCard, tensors: dict[str, torch.Tensor]) -> str:
    """The digest of the card's weights, which are these then."""
    path = Path(card.folder, "model.safetensors")
    save_file(tensors, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("wanted", DTYPES)
@pytest.mark.parametrize("has_digest", [False, True])
def test_tensors_of_any_length_are_what_torch_makes_of_them(
    stored: torch.dtype, wanted: torch.dtype, card: ModelCard, *, has_digest: bool
) -> None:
    values = torch.randn(LONGER_THAN_WHAT_IS_READ_AT_ONCE, generator=torch.Generator().manual_seed(1)).to(stored)
    tensors = {
        "a": values, "b": values[:6].view(2, 3).clone(), "c": values[0].clone(), "d": values[:0].view(0, 2).clone(),
        "cls.predictions.weight": values.clone(), "e": torch.arange(5), "f": values[7:20].clone(),
    }  # fmt: skip
    digest = _save(card, tensors)
    if has_digest:
        card = replace(card, files=replace(card.files, sha256={"model.safetensors": digest}))
    read = read_weights(card, "model.safetensors", wanted)
    assert read.keys() == tensors.keys() - {"cls.predictions.weight"}
    for name, tensor in read.items():
        expected = tensors[name].to(wanted) if tensors[name].is_floating_point() else tensors[name]
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize("wanted", DTYPES)
def test_one_changed_byte_of_any_tensor_is_another_digest(wanted: torch.dtype, card: ModelCard) -> None:
    digest = _save(card, {"a": torch.zeros(LONGER_THAN_WHAT_IS_READ_AT_ONCE), "classifier.weight": torch.ones(3)})
    card = replace(card, files=replace(card.files, sha256={"model.safetensors": digest}))
    path = Path(card.folder, "model.safetensors")
    content = path.read_bytes()
    for place in (len(content) // 2, -1):  # of what is converted, and of what is left out
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(CorruptModel, match="SHA-256"):
            read_weights(card, "model.safetensors", wanted)
