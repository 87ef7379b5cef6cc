"""What is no embedding model: told apart by config, tensors, modules and files, and refused by what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.models.card import ModelCard
from embeddaemon.models.folder import read_card
from embeddaemon.models.spec import ModelSpec
from tests.support.checkpoints import TinyBert, save_weights, write_json


def card(folder: Path) -> ModelCard:
    return read_card(ModelSpec(name="tiny", source=f"path:{folder}"), folder)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"architectures": ["BertForSequenceClassification"]}, "reranker"),
        ({"architectures": ["NewForSequenceClassification"], "model_type": "new"}, "reranker"),
        ({"architectures": ["BertForQuestionAnswering"]}, "marks answers"),
        ({"architectures": ["BertForTokenClassification"], "id2label": {"0": "PERSON"}}, "labels words"),
        ({"architectures": ["HF_ColBERT"]}, "late interaction"),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "writes texts"),
    ],
)
def test_transformer_of_another_task_is_refused_by_what_it_is(
    config: dict[str, Any], what: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=what):
        card(TinyBert(config=config).write(tmp_path))


def test_token_classifier_without_labels_is_no_reason_to_refuse(tmp_path: Path) -> None:
    """Guards: gte-multilingual-base names NewForTokenClassification among its architectures and is an encoder."""
    rotated = {"model_type": "new", "position_embedding_type": "rope"}
    config = {**rotated, "architectures": ["NewModel", "NewForTokenClassification"]}
    assert card(TinyBert(config=config).write(tmp_path / "several")).family == "gte"
    alone = {**rotated, "architectures": ["NewForTokenClassification"]}
    assert card(TinyBert(config=alone).write(tmp_path / "alone")).family == "gte"


@pytest.mark.parametrize("architecture", ["BertModel", "BertForMaskedLM"])
def test_masked_language_model_is_served_without_its_head(architecture: str, tmp_path: Path) -> None:
    assert card(TinyBert(config={"architectures": [architecture]}).write(tmp_path)).family == "bert"


def test_late_interaction_is_found_by_its_tensors_whatever_the_config_says(tmp_path: Path) -> None:
    tiny = TinyBert(prefix="bert.")
    tiny.write(tmp_path)
    projection = {"linear.weight": np.zeros((8, 32), dtype=np.float32)}
    save_weights(tmp_path / "model.safetensors", tiny.tensors() | projection)
    with pytest.raises(UnsupportedModel, match="late interaction"):
        card(tmp_path)


@pytest.mark.parametrize(
    ("kinds", "what"),
    [
        (["Transformer", "Dense"], "late interaction"),
        (["Transformer", "Dense", "Normalize"], "late interaction"),
        (["MLMTransformer", "SpladePooling"], "sparse"),
        (["Transformer", "SpladePooling"], "sparse"),
        (["Router"], "one pipeline for queries"),
        (["StaticEmbedding"], "static word vectors"),
        (["CLIPModel"], "images"),
    ],
)
def test_pipeline_of_another_kind_is_refused_by_what_it_is(kinds: list[str], what: str, tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    modules = [{"idx": place, "path": "", "type": f"some.where.{kind}"} for place, kind in enumerate(kinds)]
    write_json(tmp_path / "modules.json", modules)
    with pytest.raises(UnsupportedModel, match=what):
        card(tmp_path)


@pytest.mark.parametrize("kind", ["SparseEncoder", "CrossEncoder", "MultiVectorEncoder"])
def test_folder_that_says_it_is_of_another_kind_is_refused(kind: str, tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    write_json(tmp_path / "config_sentence_transformers.json", {"model_type": kind})
    with pytest.raises(UnsupportedModel, match=kind):
        card(tmp_path)


def test_folder_of_llama_cpp_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "model-q8_0.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(UnsupportedModel, match=r"model-q8_0\.gguf is a GGUF model"):
        card(tmp_path)


def test_gguf_beside_the_weights_disturbs_nobody(tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    (tmp_path / "model-q8_0.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    assert card(tmp_path).family == "bert"


def test_heads_in_pickles_beside_the_weights_are_passed_over(tmp_path: Path) -> None:
    """Guards: bge-m3 has sparse_linear.pt and colbert_linear.pt, which its dense vectors have no use for."""
    TinyBert().write(tmp_path)
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        (tmp_path / name).write_bytes(b"\x80\x02.")
    assert card(tmp_path).weights_files == ("model.safetensors",)


def test_model_that_is_a_pickle_is_named_before_its_heads_that_are(tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    (tmp_path / "colbert_linear.pt").write_bytes(b"")
    with pytest.raises(UnsupportedModel, match=r"pickle \(pytorch_model\.bin\)"):
        card(tmp_path)


def test_folder_without_config_is_still_said_to_be_without_one(tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CorruptModel, match=r"config\.json is missing"):
        card(tmp_path)
