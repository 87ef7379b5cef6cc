"""Jina embeddings v3 against sentence-transformers with transformers' own class; the first files are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from embeddaemon.errors import CorruptModel, UnsupportedModel
from tests.support.checkpoints import save_weights
from tests.support.embedding import cosines, embedder_of
from tests.support.families.jina_v3 import TinyJinaV3, TinyJinaV3WithAdapters
from tests.support.family_checks import TEXTS, check_family, reference

TINY = {
    "published names": TinyJinaV3(prefix="roberta.", has_pooler=True),
    "names of the class": TinyJinaV3(has_class_names=True, heads=2, layers=3, intermediate=80, dtype="float16"),
}
each = pytest.mark.parametrize("name", TINY)


@each
def test_vectors_equal_the_reference(name: str, tmp_path: Path) -> None:
    folder = TINY[name].write(tmp_path)
    embedder = embedder_of(folder)
    assert embedder.model.facts.family == "jina-v3"
    check_family(embedder, reference(folder, TEXTS))


def test_theta_may_stand_under_its_first_name(tmp_path: Path) -> None:
    """Guards: ``rotary_emb_base``, which the class does not read, passed by for the class's own 20,000."""
    right = TinyJinaV3(theta=500.0).write(tmp_path / "right")
    first = TinyJinaV3(config={"rotary_emb_base": 500.0, "rope_parameters": None}).write(tmp_path / "first")
    check_family(embedder_of(first), reference(right, TEXTS))
    usual = embedder_of(TinyJinaV3().write(tmp_path / "usual")).embed(TEXTS)
    assert np.abs(usual - embedder_of(first).embed(TEXTS)).max() > 1e-2


def test_files_with_adapters_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"adapters.*jina-embeddings-v3-hf"):
        embedder_of(TinyJinaV3WithAdapters().write(tmp_path))


@each
def test_card_has_the_sizes_that_memory_follows_from(name: str, tmp_path: Path) -> None:
    tiny = TINY[name]
    embedder = embedder_of(tiny.write(tmp_path))
    card = embedder.card
    assert (card.hidden, card.layers, card.attention_heads) == (tiny.hidden, tiny.layers, tiny.heads)
    assert (card.key_value_heads, card.intermediate, card.gated) == (tiny.heads, tiny.intermediate, False)
    assert (card.vocabulary, card.is_causal) == (tiny.config["vocab_size"], False)
    assert embedder.model.facts.parameters == card.parameters


@each
def test_bfloat16_stays_near_float32(name: str, tmp_path: Path) -> None:
    folder = TINY[name].write(tmp_path)
    assert cosines(embedder_of(folder).embed(TEXTS), embedder_of(folder, "bfloat16").embed(TEXTS)).min() > 0.99


@pytest.mark.parametrize("change", ["missing", "left over", "not divisible"])
def test_tensor_that_does_not_fit_is_refused(change: str, tmp_path: Path) -> None:
    path = replace(TINY["published names"]).write(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    name = "roberta.encoder.layers.1.mixer.Wqkv.weight"
    if change == "left over":
        tensors[name.replace("1", "7")] = tensors[name]
    elif change == "not divisible":
        tensors[name] = tensors[name][1:].copy()
    else:
        del tensors[name]
    save_weights(path, tensors)
    with pytest.raises(CorruptModel, match="layers"):
        embedder_of(tmp_path)
