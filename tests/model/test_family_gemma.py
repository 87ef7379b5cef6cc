"""EmbeddingGemma's body against sentence-transformers with the native class."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddaemon.errors import UnsupportedModel
from embeddaemon.workers.engines import Rows
from tests.support.checkpoints import Tensors, write_json
from tests.support.embedding import cosines, embedder_of
from tests.support.families.decoders import TinyGemma
from tests.support.family_checks import TEXTS, TOLERANCE, alter_weights, check_family, reference


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


LONGEST = TEXTS[-2:]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Vectors of the longest texts, of the published config."""
    return embedder_of(TinyGemma().write(tmp_path_factory.mktemp("ours"))).embed(LONGEST)


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
def test_another_reading_of_the_config_is_another_vector(other: dict[str, Any], ours: Rows, tmp_path: Path) -> None:
    """Guards against a window that is taken for a radius, or halved twice; against one theta for all layers."""
    wrong = reference(native(TinyGemma(), tmp_path, **other), LONGEST)
    assert np.abs(ours - wrong).max() > 50 * TOLERANCE


def test_pattern_of_windows_is_that_of_old_folders_where_new_keys_are_absent(tmp_path: Path) -> None:
    tiny = TinyGemma()
    del tiny.config["layer_types"]
    tiny.config |= {"sliding_window_pattern": 2}
    theirs = native(tiny, tmp_path / "theirs", layer_types=None)
    check_family(embedder_of(tiny.write(tmp_path / "ours")), reference(theirs, TEXTS))


def test_gains_count_from_one(tmp_path: Path) -> None:
    """Guards against gains that are taken as they are: with all of them minus one nothing is left of a text."""
    folder = TinyGemma(normalize=False).write(tmp_path)

    def empty(tensors: Tensors) -> None:
        tensors["norm.weight"] = np.full_like(tensors["norm.weight"], -1)

    alter_weights(folder, empty)
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
