"""Tiny BERT checkpoints against sentence-transformers, which reads and computes them by its own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from embeddaemon.models.spec import Pooling
from embeddaemon.workers.engines import Rows
from tests.support.checkpoints import TinyBert
from tests.support.embedding import cosines, embedder_of

TEXTS = [
    "the red planet",
    "",
    "a",
    "What moon was known, and why?",
    "Water of the old river: small stars in the night sky, a new day!",
    "the cat and the dog " * 20,
    "sun light",
    "red blue green",
]

OLD_POOLING = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def reference(folder: Path, texts: list[str], **options: Any) -> Rows:
    """What sentence-transformers makes of the folder."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    vectors: Rows = model.encode(texts, convert_to_numpy=True, batch_size=3, **options)
    return vectors


def assert_equals_reference(folder: Path, *, task: str | None = None) -> None:
    ours = embedder_of(folder).embed(TEXTS, task=task)
    theirs = reference(folder, TEXTS, **({"prompt_name": task} if task else {}))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("mode", list(OLD_POOLING))
def test_pooling_by_an_old_key_equals_the_reference(mode: str, tmp_path: Path) -> None:
    assert_equals_reference(TinyBert(pooling={OLD_POOLING[mode]: True}).write(tmp_path))


@pytest.mark.parametrize("mode", list(OLD_POOLING))
def test_pooling_by_the_new_key_equals_the_reference(mode: str, tmp_path: Path) -> None:
    assert_equals_reference(TinyBert(pooling={"pooling_mode": mode}, new_layout=True).write(tmp_path))


@pytest.mark.parametrize("mode", list(OLD_POOLING))
def test_prompt_left_out_of_the_pooling_equals_the_reference(mode: str, tmp_path: Path) -> None:
    pooling = {"pooling_mode": mode, "include_prompt": False}
    tiny = TinyBert(pooling=pooling, prompts={"query": "search query: "}, new_layout=True)
    assert_equals_reference(tiny.write(tmp_path), task="query")


def test_several_poolings_are_concatenated_in_their_order(tmp_path: Path) -> None:
    folder = TinyBert(pooling={"pooling_mode": ["max", "cls", "mean"]}, new_layout=True).write(tmp_path)
    assert embedder_of(folder).card.dim == 96
    assert_equals_reference(folder)


def test_several_old_keys_are_concatenated_in_the_order_of_the_reference(tmp_path: Path) -> None:
    pooling = {OLD_POOLING[mode]: True for mode in ("lasttoken", "mean", "cls")}
    folder = TinyBert(pooling=pooling, normalize=False).write(tmp_path)
    assert embedder_of(folder).card.pooling == (Pooling.CLS, Pooling.MEAN, Pooling.LAST_TOKEN)
    assert_equals_reference(folder)


@pytest.mark.parametrize(
    "tiny",
    [
        pytest.param(TinyBert(normalize=False), id="not normalised"),
        pytest.param(TinyBert(pooling=None), id="no modules.json"),
        pytest.param(TinyBert(prefix="bert.", config={"architectures": ["BertForMaskedLM"]}), id="prefix"),
        pytest.param(TinyBert(old_names=True), id="gamma and beta"),
        pytest.param(TinyBert(has_pooler=False), id="no pooler"),
        pytest.param(TinyBert(dtype="float16"), id="stored as float16"),
        pytest.param(TinyBert(sentence_config=None), id="limit from the tokenizer"),
        pytest.param(TinyBert(sentence_config=None, tokenizer_config={"model_max_length": 9}), id="short tokenizer"),
        pytest.param(TinyBert(sentence_config={"max_seq_length": 12, "do_lower_case": True}), id="lower case"),
        pytest.param(TinyBert(tokenizer_config={"do_lower_case": False}), id="tokenizer says cased"),
        pytest.param(TinyBert(tokenizer_json=False), id="vocab.txt only"),
        pytest.param(TinyBert(config={"hidden_act": "relu"}), id="relu"),
        pytest.param(TinyBert(heads=8, layers=3, intermediate=40), id="other shape"),
    ],
)
def test_folder_equals_the_reference(tiny: TinyBert, tmp_path: Path) -> None:
    # The reference loads the dtype of the file; ours is told float32.
    if tiny.dtype == "float16":
        ours = embedder_of(tiny.write(tmp_path)).embed(TEXTS)
        assert cosines(ours, reference(tmp_path, TEXTS).astype(np.float32)).min() > 0.9999
        return
    assert_equals_reference(tiny.write(tmp_path))


def test_named_prompt_equals_the_reference(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "document": "document: "}
    folder = TinyBert(prompts=prompts, default_prompt="query").write(tmp_path)
    assert embedder_of(folder).card.default_task == "query"
    for task in prompts:
        assert_equals_reference(folder, task=task)


def test_prompt_changes_the_vector(tmp_path: Path) -> None:
    embedder = embedder_of(TinyBert(prompts={"query": "query: "}).write(tmp_path))
    assert cosines(embedder.embed(["red"]), embedder.embed(["red"], task="query")).max() < 0.999


def test_packed_equals_one_by_one(tmp_path: Path) -> None:
    embedder = embedder_of(TinyBert(pooling={"pooling_mode": ["mean", "max"]}).write(tmp_path))
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    np.testing.assert_allclose(embedder.embed(TEXTS), alone, atol=1e-5)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64, 65, 80, 100, 127])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.06)])
def test_row_is_filled_up_without_a_trace(length: int, precision: str, tolerance: float, tmp_path: Path) -> None:
    """Rows of many tokens, with filler after the last text or not, and texts filled up for attention."""
    tiny = TinyBert(pooling={"pooling_mode": ["mean", "max", "lasttoken"]}, normalize=False, positions=128)
    folder = tiny.write(tmp_path)
    exact, embedder = embedder_of(folder).model, embedder_of(folder, precision)
    lengths = np.array([3, length, length, 40], dtype=np.int32)
    ids = np.arange(lengths.sum(), dtype=np.int32) % embedder.card.vocabulary
    starts = np.cumsum(lengths) - lengths
    alone = [
        exact.forward(ids[start : start + one], np.array([one]), None)
        for start, one in zip(starts, lengths, strict=True)
    ]
    together = embedder.model.forward(ids, lengths, None)
    assert together.shape == (4, 96)
    np.testing.assert_allclose(together, np.concatenate(alone), atol=tolerance)


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path)
    exact, fast = embedder_of(folder), embedder_of(folder, "bfloat16")
    assert fast.model.facts.precision == "bfloat16"
    assert cosines(exact.embed(TEXTS), fast.embed(TEXTS)).min() > 0.999


def test_cut_text_keeps_its_last_token_and_tells_its_length(tmp_path: Path) -> None:
    embedder = embedder_of(TinyBert().write(tmp_path))
    (encoded,) = embedder.model.tokenize(["red " * 50], prompt="", max_tokens=32)
    assert (len(encoded.ids), encoded.full_length, encoded.ids[-1]) == (32, 52, 3)


def test_prompt_tokens_count_the_start_token(tmp_path: Path) -> None:
    pooling = {"pooling_mode": "mean", "include_prompt": False}
    embedder = embedder_of(TinyBert(pooling=pooling).write(tmp_path))
    (encoded,) = embedder.model.tokenize(["red"], prompt="search query : ", max_tokens=32)
    assert encoded.prompt_tokens == 4


def test_no_texts_give_no_rows(tmp_path: Path) -> None:
    embedder = embedder_of(TinyBert().write(tmp_path))
    empty = np.empty(0, dtype=np.int32)
    assert embedder.model.forward(empty, empty, None).shape == (0, 32)
