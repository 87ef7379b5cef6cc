"""Qwen2, Qwen3, Mistral and Llama, causal and not, against sentence-transformers with the native classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.workers.engines import Rows
from tests.support.checkpoints import write_json
from tests.support.embedding import embedder_of
from tests.support.families.decoders import TinyDecoder, TinyLlama, TinyMistral, TinyQwen2, TinyQwen3
from tests.support.family_checks import TEXTS, TOLERANCE, check_family, reference

NOT_CAUSAL = {"is_causal": False}
MEAN = {"pooling_mode_mean_tokens": True}
FIRST = {"pooling_mode_cls_token": True}
WINDOW = 4
"""Tokens: most of ``TEXTS`` are longer."""

CAUSAL: dict[str, TinyDecoder] = {
    "qwen2": TinyQwen2(published_code=False, closes=True),
    "qwen3": TinyQwen3(),
    "qwen3 of an own class": TinyQwen3(prefix="", closes=True),
    "mistral": TinyMistral(),
    "mistral with a head": TinyMistral(prefix="model.", has_lm_head=True),
    "mistral with a window": TinyMistral(config={"sliding_window": WINDOW}),
    "llama": TinyLlama(heads=4, key_value_heads=4),
    "llama with wide heads": TinyLlama(config={"head_dim": 16}, head_width=16, key_value_heads=1),
}

BIDIRECTIONAL: dict[str, TinyDecoder] = {
    "gte-qwen2": TinyQwen2(has_lm_head=True),
    "gte-qwen2 of an old snapshot": TinyQwen2(config={"is_causal": True}),
    "stella 1.5b": TinyQwen2(pooling=MEAN, normalize=False),
    "qwen3": TinyQwen3(config=NOT_CAUSAL, pooling=MEAN, closes=True),
    "qwen3 by its type": TinyQwen3(kind="bidirectional_pplx_qwen3", pooling=MEAN, closes=True),
    "mistral": TinyMistral(config=NOT_CAUSAL, pooling=MEAN),
    "mistral with a window": TinyMistral(config={**NOT_CAUSAL, "sliding_window": WINDOW}, pooling=MEAN),
    "llama": TinyLlama(config={"use_bidirectional_attention": True}, pooling=MEAN),
    "llama by its type": TinyLlama(kind="llama_bidirec", pooling=MEAN),
}


def native(tiny: TinyDecoder, folder: Path, **config: Any) -> Path:
    """The same model so that sentence-transformers reads it without code of others: every token at its place."""
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "</s>"}
    if isinstance(tiny, TinyQwen2 | TinyQwen3):
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    replace(tiny, closes=True, tokenizer_config=settings).write(folder)
    published = json.loads((folder / "config.json").read_text())
    published.pop("auto_map", None)
    kind = {"llama_bidirec": "llama", "bidirectional_pplx_qwen3": "qwen3"}.get(tiny.kind, tiny.kind)
    write_json(folder / "config.json", {**published, "model_type": kind, **config})
    return folder


def expected(tiny: TinyDecoder, folder: Path, **config: Any) -> Rows:
    return reference(native(tiny, folder, **config), TEXTS)


@pytest.mark.parametrize("tiny", CAUSAL.values(), ids=CAUSAL.keys())
def test_causal_vectors_equal_the_reference(tiny: TinyDecoder, tmp_path: Path) -> None:
    embedder = embedder_of(tiny.write(tmp_path / "ours"))
    assert embedder.card.is_causal
    assert (embedder.card.key_value_heads, embedder.card.gated) == (tiny.key_value_heads, True)
    check_family(embedder, expected(tiny, tmp_path / "theirs"))


@pytest.mark.parametrize("tiny", BIDIRECTIONAL.values(), ids=BIDIRECTIONAL.keys())
def test_vectors_that_see_in_both_directions_equal_the_reference(tiny: TinyDecoder, tmp_path: Path) -> None:
    """Guards against a model that is loaded causal since its config says so, or nothing."""
    embedder = embedder_of(tiny.write(tmp_path / "ours"))
    assert not embedder.card.is_causal
    right = expected(tiny, tmp_path / "theirs", **NOT_CAUSAL)
    check_family(embedder, right)
    causal = reference(native(tiny, tmp_path / "causal", is_causal=True), TEXTS[-1:])
    assert np.abs(causal - right[-1:]).max() > 100 * TOLERANCE


@pytest.mark.parametrize(
    "tiny", [TinyQwen2(pooling=FIRST), TinyQwen3(pooling=FIRST), TinyMistral(pooling=FIRST)], ids=lambda tiny: tiny.kind
)
def test_first_token_knows_of_the_last_one_only_where_the_card_says_so(tiny: TinyDecoder, tmp_path: Path) -> None:
    embedder = embedder_of(tiny.write(tmp_path))
    one, other = embedder.embed(["the red planet star", "the red planet moon"])
    assert embedder.card.is_causal == bool(np.abs(one - other).max() < TOLERANCE)


def test_last_token_is_the_one_that_the_tokenizer_leaves_out(tmp_path: Path) -> None:
    """Guards against the state of the last word of a text being pooled."""
    tiny = TinyQwen2()
    check_family(embedder_of(tiny.write(tmp_path / "ours")), expected(tiny, tmp_path / "theirs", **NOT_CAUSAL))
    open_end = native(tiny, tmp_path / "open", **NOT_CAUSAL)
    tiny.tokenizer().save(str(open_end / "tokenizer.json"))
    ours = embedder_of(tmp_path / "ours").embed(TEXTS[-1:])
    assert np.abs(reference(open_end, TEXTS[-1:]) - ours).max() > 100 * TOLERANCE


ROPES: dict[str, dict[str, Any]] = {
    "old": {"rope_theta": 50.0},
    "new": {"rope_theta": None, "rope_parameters": {"rope_theta": 50.0, "rope_type": "default"}},
    "linear, old": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "linear, new": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50.0}},
    "yarn": {
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    },
    "llama3": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 16,
        }
    },
}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Vectors of a Llama whose theta is 1000, not scaled."""
    return embedder_of(TinyLlama().write(tmp_path_factory.mktemp("usual"))).embed(TEXTS)


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
def test_rotations_are_as_the_config_says(rope: dict[str, Any], usual: Rows, tmp_path: Path) -> None:
    """Guards against another theta than the config's, or a scaling that is ignored."""
    tiny = TinyLlama(config=rope)
    if rope.get("rope_theta", 0) is None:
        del tiny.config["rope_theta"]
    embedder = embedder_of(tiny.write(tmp_path / "ours"))
    check_family(embedder, expected(tiny, tmp_path / "theirs"))
    assert np.abs(usual - embedder.embed(TEXTS)).max() > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 2.0}}}, "dynamic"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_rotations_that_are_not_served_are_refused(config: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=named):
        embedder_of(TinyQwen3(config=config).write(tmp_path))


def test_scaling_of_rotations_that_is_no_map_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="rope_scaling"):
        embedder_of(TinyQwen3(config={"rope_scaling": "yarn"}).write(tmp_path))


@pytest.mark.parametrize("tiny", [TinyQwen2(bfloat16=True), TinyQwen3(bfloat16=True)], ids=lambda tiny: tiny.kind)
def test_checkpoint_in_16_bits_is_computed_in_float32_when_that_is_asked(tiny: TinyDecoder, tmp_path: Path) -> None:
    """Guards against the file's or the config's own precision."""
    embedder = embedder_of(tiny.write(tmp_path / "ours"))
    assert embedder.model.facts.precision == "float32"
    config = {} if embedder.card.is_causal else NOT_CAUSAL
    check_family(embedder, expected(tiny, tmp_path / "theirs", **config))


@pytest.mark.parametrize("is_tied", [True, False])
def test_head_of_the_language_model_is_neither_held_nor_counted(is_tied: bool, tmp_path: Path) -> None:
    """Guards against its gigabyte; and, where it is tied to the words, against it taking their place."""
    tiny = TinyQwen2(has_lm_head=True, config={"tie_word_embeddings": is_tied})
    embedder = embedder_of(tiny.write(tmp_path / "ours"))
    without = embedder_of(TinyQwen2().write(tmp_path / "without"))
    assert embedder.card.parameters == embedder.model.facts.parameters == without.card.parameters
    np.testing.assert_array_equal(embedder.embed(TEXTS), without.embed(TEXTS))


def test_table_of_words_may_have_more_rows_or_fewer_than_the_config_says(tmp_path: Path) -> None:
    tiny = TinyQwen3(padded_words=11, config={"vocab_size": 151_936})
    embedder = embedder_of(tiny.write(tmp_path / "ours"))
    assert embedder.card.vocabulary == tiny.words == tiny.tokenizer().get_vocab_size() + 11
    check_family(embedder, expected(tiny, tmp_path / "theirs", vocab_size=tiny.words))
