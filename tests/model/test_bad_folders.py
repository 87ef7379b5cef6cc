"""Folders that cannot be served: each with its own error, which names the file, and nothing computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddaemon.errors import CorruptModel, FailedLoad, UnsupportedModel
from embeddaemon.models.card import ModelCard
from tests.support.checkpoints import Tensors, TinyBert, save_weights, write_json
from tests.support.embedding import Embedder, card_of, embedder_of

WEIGHTS = "model.safetensors"


def change(folder: Path, edit: Callable[[Tensors], None]) -> Path:
    """The folder with other tensors in its weights."""
    TinyBert().write(folder)
    tensors = TinyBert().tensors()
    edit(tensors)
    save_weights(folder / WEIGHTS, tensors)
    return folder


def without(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(name)


def refused(folder: Path, kind: type[FailedLoad]) -> str:
    """The message of the error that loading ends with."""
    with pytest.raises(kind) as caught:
        embedder_of(folder)
    assert type(caught.value) is kind
    return caught.value.message


def with_files(card: ModelCard, **fields: Any) -> ModelCard:
    return replace(card, files=replace(card.files, **fields))


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = change(tmp_path, without("encoder.layer.1.attention.self.key.bias"))
    assert "encoder.layer.1.attention.self.key.bias" in refused(folder, CorruptModel)


def test_left_over_tensor_is_named(tmp_path: Path) -> None:
    folder = change(tmp_path, lambda tensors: tensors.update({"adapter.weight": np.zeros(3, dtype=np.float32)}))
    assert "adapter.weight" in refused(folder, CorruptModel)


@pytest.mark.parametrize(
    "name", ["cls.predictions.bias", "classifier.weight", "lm_head.bias", "embeddings.position_ids"]
)
def test_heads_of_other_tasks_are_left_out(name: str, tmp_path: Path) -> None:
    folder = change(tmp_path, lambda tensors: tensors.update({name: np.zeros(3, dtype=np.float32)}))
    assert embedder_of(folder).embed(["red"]).shape == (1, 32)


def test_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    name = "encoder.layer.0.output.dense.weight"
    folder = change(tmp_path, lambda tensors: tensors.update({name: tensors[name].T.copy()}))
    assert name in refused(folder, CorruptModel)


def test_integers_where_weights_should_be_are_refused(tmp_path: Path) -> None:
    name = "embeddings.LayerNorm.bias"
    folder = change(tmp_path, lambda tensors: tensors.update({name: np.zeros(32, dtype=np.int64)}))
    assert name in refused(folder, CorruptModel)


def test_wrong_digest_is_refused(tmp_path: Path) -> None:
    card = with_files(card_of(TinyBert().write(tmp_path)), sha256={WEIGHTS: "0" * 64})
    for is_sealed in (False, True):
        with pytest.raises(CorruptModel, match="SHA-256"):
            Embedder(with_files(card, is_sealed=is_sealed))


def test_right_digest_is_accepted(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    card = with_files(card_of(folder), sha256={WEIGHTS: digest})
    for is_sealed in (False, True):
        assert Embedder(with_files(card, is_sealed=is_sealed)).model.facts.family == "bert"


def test_weights_that_change_after_the_load_change_nothing(tmp_path: Path) -> None:
    embedder = embedder_of(TinyBert().write(tmp_path))
    before = embedder.embed(["the red planet"])
    with (tmp_path / WEIGHTS).open("r+b") as file:
        file.truncate(100)
    np.testing.assert_array_equal(embedder.embed(["the red planet"]), before)


def test_weights_cut_between_card_and_load_are_corrupt(tmp_path: Path) -> None:
    card = card_of(TinyBert().write(tmp_path))
    with (tmp_path / WEIGHTS).open("r+b") as file:
        file.truncate(card.weights_bytes - 10)
    with pytest.raises(CorruptModel, match="cut short"):
        Embedder(card)


def test_config_that_makes_no_model_is_corrupt(tmp_path: Path) -> None:
    folder = TinyBert(config={"num_attention_heads": 5}).write(tmp_path)
    assert "config.json" in refused(folder, CorruptModel)


def test_config_of_other_sizes_than_the_weights_is_corrupt(tmp_path: Path) -> None:
    folder = TinyBert(config={"intermediate_size": 64}).write(tmp_path)
    assert "intermediate.dense" in refused(folder, CorruptModel)


def test_unknown_activation_is_refused(tmp_path: Path) -> None:
    assert "config.json" in refused(TinyBert(config={"hidden_act": "swish9"}).write(tmp_path), UnsupportedModel)


def test_missing_tokenizer_is_corrupt(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").unlink()
    assert "no tokenizer" in refused(folder, CorruptModel)


@pytest.mark.parametrize("content", ["", "{}", "[1, 2", '{"model": {"type": "Nothing"}}'])
def test_damaged_tokenizer_is_corrupt(content: str, tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path)
    (folder / "tokenizer.json").write_text(content)
    assert "tokenizer.json" in refused(folder, CorruptModel)


def test_vocabulary_without_its_special_words_is_corrupt(tmp_path: Path) -> None:
    folder = TinyBert(tokenizer_json=False).write(tmp_path)
    (folder / "vocab.txt").write_text("red\nblue\n")
    assert "[CLS]" in refused(folder, CorruptModel)


def test_tokenizer_with_more_words_than_the_model_is_corrupt(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["one-too-many"] = len(tokenizer["model"]["vocab"])
    write_json(folder / "tokenizer.json", tokenizer)
    assert "token id" in refused(folder, CorruptModel)


@pytest.mark.parametrize(
    ("device", "precision"), [("cuda:7", "auto"), ("tpu", "auto"), ("cpu", "float16"), ("cpu", "int3"), ("mps", "auto")]
)
def test_device_or_precision_that_is_not_there_is_refused(device: str, precision: str, tmp_path: Path) -> None:
    card = card_of(TinyBert().write(tmp_path))
    with pytest.raises(UnsupportedModel, match=f"{device}|{precision}"):
        Embedder(card, precision, device)
