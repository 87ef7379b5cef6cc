"""EuroBERT against sentence-transformers with transformers' own class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from embeddaemon.errors import CorruptModel, UnsupportedModel
from tests.support.checkpoints import save_weights
from tests.support.embedding import cosines, embedder_of
from tests.support.families.eurobert import TinyEuroBert
from tests.support.family_checks import TEXTS, check_family, reference

TINY = {
    "EuroBERT-210m": TinyEuroBert(key_value_heads=4),
    "EuroBERT-610m": TinyEuroBert(heads=6, key_value_heads=2, hidden=48, intermediate=80, layers=3, bfloat16=True),
    "without a prefix": TinyEuroBert(prefix="", has_lm_head=False, architecture="EuroBertModel"),
}
each = pytest.mark.parametrize("name", TINY)


@each
def test_vectors_equal_the_reference(name: str, tmp_path: Path) -> None:
    folder = TINY[name].write(tmp_path)
    embedder = embedder_of(folder)
    assert embedder.model.facts.family == "eurobert"
    check_family(embedder, reference(folder, TEXTS))


def test_every_token_sees_those_behind_it(tmp_path: Path) -> None:
    """Guards: a class that is built like a Llama, and is not causal though its config does not say so."""
    folder = TinyEuroBert(pooling={"pooling_mode_cls_token": True}).write(tmp_path)
    first = embedder_of(folder).embed(["the red planet", "the red planet was"])
    assert np.abs(first[0] - first[1]).max() > 1e-2


def test_theta_is_the_published_one(tmp_path: Path) -> None:
    """Guards: 250,000 as published; the class's own would be 10,000."""
    tiny = TinyEuroBert()
    right, wrong = (
        embedder_of(one.write(tmp_path / str(one.theta))) for one in (tiny, replace(tiny, theta=1e4, config={}))
    )
    assert np.abs(right.embed(TEXTS) - wrong.embed(TEXTS)).max() > 1e-2


@each
def test_card_has_the_sizes_that_memory_follows_from(name: str, tmp_path: Path) -> None:
    tiny = TINY[name]
    embedder = embedder_of(tiny.write(tmp_path))
    card = embedder.card
    assert (card.hidden, card.layers, card.attention_heads) == (tiny.hidden, tiny.layers, tiny.heads)
    assert (card.key_value_heads, card.intermediate, card.gated) == (tiny.key_value_heads, tiny.intermediate, True)
    assert (card.vocabulary, card.is_causal) == (tiny.words, False)
    assert embedder.model.facts.parameters == card.parameters


@each
def test_bfloat16_stays_near_float32(name: str, tmp_path: Path) -> None:
    folder = TINY[name].write(tmp_path)
    assert cosines(embedder_of(folder).embed(TEXTS), embedder_of(folder, "bfloat16").embed(TEXTS)).min() > 0.99


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"is_causal": True}, "is_causal is 'True'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "type is 'dynamic'"),
    ],
)
def test_option_that_is_not_computed_is_refused_by_name(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        embedder_of(TinyEuroBert(config=config).write(tmp_path))


@pytest.mark.parametrize("change", ["missing", "left over"])
def test_tensor_that_does_not_fit_is_refused(change: str, tmp_path: Path) -> None:
    path = TinyEuroBert().write(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    if change == "missing":
        del tensors["model.layers.1.mlp.up_proj.weight"]
    else:
        tensors["model.layers.1.mlp.up_proj.bias"] = tensors["model.norm.weight"]
    save_weights(path, tensors)
    with pytest.raises(CorruptModel, match="up_proj"):
        embedder_of(tmp_path)
