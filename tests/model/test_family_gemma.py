"""EmbeddingGemma's body against sentence-transformers with the native class."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from embeddaemon.errors import CorruptModel, UnsupportedModel
from tests.support.checkpoints import save_weights, write_json
from tests.support.embedding import card_of, cosines, embedder_of
from tests.support.families.decoders import TinyGemma
from tests.support.family_checks import TEXTS, TOLERANCE, check_family, reference


def native(tiny: TinyGemma, folder: Path, **config: Any) -> Path:
    """The same so that sentence-transformers takes the folder's own tokenizer."""
    names = {"tokenizer_class": "PreTrainedTokenizerFast"}
    replace(tiny, tokenizer_config=names).write(folder)
    published = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**published, **config})
    return folder


@pytest.mark.parametrize(
    "tiny",
    [
        TinyGemma(),
        TinyGemma(prefix="model.", has_lm_head=True, padded_words=5),
        TinyGemma(config={"sliding_window": 64}),
        TinyGemma(config={"use_bidirectional_attention": False, "sliding_window": 6}),
        TinyGemma(config={"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    ],
    ids=["published", "of a class with a head", "wide window", "causal", "scaled"],
)
def test_vectors_equal_the_reference(tiny: TinyGemma, tmp_path: Path) -> None:
    embedder = embedder_of(tiny.write(tmp_path / "ours"))
    assert embedder.card.is_causal != tiny.config["use_bidirectional_attention"]
    check_family(embedder, reference(native(tiny, tmp_path / "theirs"), TEXTS))


@pytest.mark.parametrize(
    "other",
    [
        {"sliding_window": 14},  # makes a radius of eight, which is the published width
        {"sliding_window": 3},  # halved twice
        {"sliding_window": 64},
        {"use_bidirectional_attention": False},
        {"rope_local_base_freq": 1000.0},
        {"query_pre_attn_scalar": 16},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_reading_of_the_config_is_another_vector(other: dict[str, Any], tmp_path: Path) -> None:
    """Guards against a window that is taken for a radius, or halved twice; against one theta for all layers."""
    ours = embedder_of(TinyGemma().write(tmp_path / "ours")).embed(TEXTS)
    wrong = reference(native(TinyGemma(), tmp_path / "theirs", **other), TEXTS)
    assert np.abs(ours - wrong).max() > 50 * TOLERANCE


def test_pattern_of_windows_is_that_of_old_folders_where_new_keys_are_absent(tmp_path: Path) -> None:
    tiny = TinyGemma()
    del tiny.config["layer_types"]
    tiny.config |= {"sliding_window_pattern": 2}
    theirs = native(tiny, tmp_path / "theirs", layer_types=None)
    check_family(embedder_of(tiny.write(tmp_path / "ours")), reference(theirs, TEXTS))


def test__gains_count_from_one(tmp_path: Path) -> None:
    """Guards against gains that are taken as they are: with all of them minus one nothing is left of a text."""
    tiny = TinyGemma(normalize=False)
    folder = tiny.write(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    nought = {name: values * 0 - 1 if name == "norm.weight" else values for name, values in tensors.items()}
    save_weights(folder / "model.safetensors", nought)
    assert np.abs(embedder_of(folder).embed(TEXTS)).max() == 0.0


def test_bfloat16_stays_near_float32_and_float16_is_refused(tmp_path: Path) -> None:
    folder = TinyGemma().write(tmp_path)
    assert cosines(embedder_of(folder).embed(TEXTS), embedder_of(folder, "bfloat16").embed(TEXTS)).min() > 0.99
    with pytest.raises(UnsupportedModel, match="float16"):
        embedder_of(folder, "float16")


@pytest.mark.parametrize(
    "config",
    [
        {"attn_logit_softcapping": 50.0},
        {"use_bidirectional_attention": None, "is_causal": False},
        {"rope_parameters": {"full_attention": {"rope_type": "proportional", "rope_theta": 1e6}}},
    ],
    ids=lambda config: next(iter(config)),
)
def test_options_that_are_not_served_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"attn_logit_softcapping|is_causal|rope_type"):
        embedder_of(TinyGemma(config=config).write(tmp_path))


def test_tensor_that_is_missing_or_left_over_is_refused(tmp_path: Path) -> None:
    file = TinyGemma().write(tmp_path) / "model.safetensors"
    tensors = load_file(file)
    name = "layers.3.post_feedforward_layernorm.weight"
    save_weights(file, {key: values for key, values in tensors.items() if key != name})
    with pytest.raises(CorruptModel, match="post_feedforward_layernorm"):
        embedder_of(tmp_path)
    save_weights(file, {**tensors, "layers.4.input_layernorm.weight": tensors[name]})
    with pytest.raises(CorruptModel, match="5, the last one number 4"):
        embedder_of(tmp_path)


def test_card_says_what_memory_follows_from(tmp_path: Path) -> None:
    card = card_of(TinyGemma(intermediate=80, layers=3).write(tmp_path))
    assert (card.family, card.hidden, card.layers, card.intermediate, card.gated) == ("gemma3", 48, 3, 80, True)
    assert (card.attention_heads, card.key_value_heads) == (3, 1)
    assert card.vocabulary == TinyGemma().words
