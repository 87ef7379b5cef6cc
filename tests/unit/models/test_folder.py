"""What a folder and a spec make of a card, and what is refused before a process is started for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddaemon.errors import ConfigError, CorruptModel, EmbedDaemonError, ModelNotFound, UnsupportedModel
from embeddaemon.models.card import ModelCard
from embeddaemon.models.folder import read_card
from embeddaemon.models.order import LoadOrder, order_from_map
from embeddaemon.models.spec import ModelSpec, Pooling
from embeddaemon.protocol.limits import Limits
from tests.support.checkpoints import TinyBert, save_weights, write_json


def card(folder: Path, **spec: Any) -> ModelCard:
    return read_card(ModelSpec(name="tiny", **{"source": f"path:{folder}", **spec}), folder)


def test_card_says_what_the_folder_says(tmp_path: Path) -> None:
    read = card(TinyBert(prompts={"query": "query: "}, default_prompt="query").write(tmp_path))
    assert (read.family, read.dim, read.max_tokens, read.pooling) == ("bert", 32, 32, (Pooling.MEAN,))
    assert (read.normalize, read.include_prompt, read.dimensions) == (True, True, (32,))
    assert (read.prompts, read.default_task) == ({"query": "query: ", "document": ""}, "query")
    assert (read.hidden, read.intermediate, read.gated) == (32, 48, False)
    assert read.weights_bytes == (tmp_path / "model.safetensors").stat().st_size
    tensors = TinyBert(has_pooler=False).tensors().values()  # a pooler is never read
    assert read.parameters == sum(tensor.size for tensor in tensors)


def test_fine_tuned_siblings_have_the_same_weights_digest_and_other_shapes_another(tmp_path: Path) -> None:
    one = card(TinyBert(seed=1).write(tmp_path / "one"))
    sibling = card(TinyBert(seed=2).write(tmp_path / "sibling"))
    other = card(TinyBert(layers=3).write(tmp_path / "other"))
    assert one.weights_digest == sibling.weights_digest != other.weights_digest
    assert len(one.weights_digest) == 64


def test_card_survives_its_travel(tmp_path: Path) -> None:
    read = card(TinyBert(pooling={"pooling_mode": ["cls", "max"]}).write(tmp_path), dimensions=(16,))
    order = LoadOrder(card=read, device="cpu", precision="auto", token_budget=8, limits=Limits())
    values = order.as_map()
    for key in ("dimensions", "weights_files", "notes"):  # as msgpack hands them over
        values["card"][key] = list(values["card"][key])
    values["card"]["files"]["names"] = list(values["card"]["files"]["names"])
    assert order_from_map(values) == order


def test_spec_goes_before_the_folder(tmp_path: Path) -> None:
    read = card(
        TinyBert(prompts={"query": "query: "}, default_prompt="query").write(tmp_path),
        pooling=(Pooling.CLS, Pooling.MAX),
        normalize=False,
        max_tokens=64,
        prompts={"title": "title: "},
        default_task="title",
        dimensions=(16, 8),
    )
    assert (read.dim, read.normalize, read.max_tokens) == (64, False, 64)
    assert (read.prompts, read.default_task) == ({"title": "title: "}, "title")
    assert read.dimensions == (64, 16, 8)


@pytest.mark.parametrize(
    "spec",
    [
        {"max_tokens": 65},
        {"max_tokens": 0},
        {"dimensions": (33,)},
        {"dimensions": (0,)},
        {"default_task": "query"},
    ],
)
def test_spec_beyond_the_model_is_a_config_error(spec: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tiny"):
        card(TinyBert().write(tmp_path), **spec)


@pytest.mark.parametrize(
    ("sentence", "tokenizer", "expected"),
    [
        ({"max_seq_length": 20}, 10, 20),
        ({"max_seq_length": None}, 10, 10),
        ({"max_seq_length": 500}, 10, 64),
        (None, 1e30, 64),
        (None, 48, 48),
        ({"processor_kwargs": {"model_max_length": 7}, "max_seq_length": 20}, 10, 7),
    ],
)
def test_longest_text(sentence: dict[str, Any] | None, tokenizer: float, expected: int, tmp_path: Path) -> None:
    tiny = TinyBert(sentence_config=sentence, tokenizer_config={"model_max_length": tokenizer})
    assert card(tiny.write(tmp_path)).max_tokens == expected


def test_limit_is_read_under_its_old_names_too(tmp_path: Path) -> None:
    TinyBert(sentence_config=None).write(tmp_path)
    write_json(tmp_path / "sentence_roberta_config.json", {"max_seq_length": 21})
    assert card(tmp_path).max_tokens == 21


def test_transformer_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    TinyBert().write(tmp_path / "0_Transformer")
    for name in ("modules.json", "1_Pooling"):
        (tmp_path / "0_Transformer" / name).rename(tmp_path / name)
    modules = [
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    write_json(tmp_path / "modules.json", modules)
    read = card(tmp_path)
    assert read.weights_files == ("0_Transformer/model.safetensors",)
    assert read.transformer_folder == str(tmp_path / "0_Transformer")
    assert not read.normalize


def test_table_fills_in_prompts_that_a_folder_lacks(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "bge-small-en-v1.5")
    read = card(folder)
    assert read.prompts["query"].startswith("Represent this sentence")
    assert read.default_task is None


def test_folders_own_prompts_go_before_the_table(tmp_path: Path) -> None:
    folder = TinyBert(prompts={"query": "mine: "}).write(tmp_path / "bge-small-en-v1.5")
    assert card(folder).prompts == {"query": "mine: ", "document": ""}


def test_changed_weights_are_another_revision(tmp_path: Path) -> None:
    before = card(TinyBert().write(tmp_path)).revision
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert card(tmp_path).revision != before


def test_missing_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        card(tmp_path / "nowhere")


def test_folder_without_config_is_corrupt(tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CorruptModel, match=r"config\.json is missing"):
        card(tmp_path)


def test_folder_without_weights_is_corrupt(tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CorruptModel, match="no weights"):
        card(tmp_path)


def test_pickle_is_not_loaded(tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match=r"pickle.*convert"):
        card(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "tokenizer_config.json"],
)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"7", b"[" * 100_000, b'{"a": 1, "a": 2}'])
def test_damaged_json_is_corrupt_and_named(name: str, content: bytes, tmp_path: Path) -> None:
    TinyBert(sentence_config={}).write(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptModel, match=name.rpartition("/")[2]):
        card(tmp_path)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"model_type": "t5"}, UnsupportedModel),
        ({"model_type": None}, UnsupportedModel),
        ({"architectures": ["BertForSequenceClassification"]}, UnsupportedModel),
        ({"is_decoder": True}, UnsupportedModel),
        ({"position_embedding_type": "relative_key"}, UnsupportedModel),
        ({"hidden_size": "wide"}, CorruptModel),
        ({"hidden_size": 0}, CorruptModel),
        ({"vocab_size": -5}, CorruptModel),
        ({"max_position_embeddings": None}, CorruptModel),
        ({"architectures": 7}, CorruptModel),
    ],
)
def test_config_that_is_not_served_is_refused(
    config: dict[str, Any], error: type[EmbedDaemonError], tmp_path: Path
) -> None:
    with pytest.raises(error, match=r"config\.json"):
        card(TinyBert(config=config).write(tmp_path))


def test_jina_whose_config_says_that_it_is_a_bert_is_refused(tmp_path: Path) -> None:
    """Guards: half of its layers left out, and positions that it never had. The tensors do not lie."""
    TinyBert().write(tmp_path)
    gated = {"encoder.layer.0.mlp.gated_layers.weight": np.zeros((4, 4), dtype=np.float32)}
    save_weights(tmp_path / "model.safetensors", TinyBert().tensors() | gated)
    with pytest.raises(UnsupportedModel, match=r"position_embedding_type is 'absolute', .* served is alibi"):
        card(tmp_path)


def test_layers_that_no_tensors_are_there_for_are_corrupt(tmp_path: Path) -> None:
    folder = TinyBert(config={"num_hidden_layers": 1_000_000}).write(tmp_path)
    with pytest.raises(
        CorruptModel, match=r"config\.json has 1000000 layers, the names of the tensors have 2, the last one number 1"
    ):
        card(folder)


@pytest.mark.parametrize(
    ("kinds", "named"),
    [
        (["Transformer", "Pooling", "WeightedLayerPooling"], "WeightedLayerPooling"),
        (["Transformer", "SpladePooling"], "SpladePooling"),
        (["Transformer"], "order Transformer"),
        (["Pooling", "Transformer"], "order Pooling, Transformer"),
    ],
)
def test_pipeline_that_is_not_served_is_refused(kinds: list[str], named: str, tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    modules = [{"idx": place, "path": "", "type": f"some.where.{kind}"} for place, kind in enumerate(kinds)]
    write_json(tmp_path / "modules.json", modules)
    with pytest.raises(UnsupportedModel, match=named):
        card(tmp_path)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", 7, "\0", "\ud800"])
def test_module_outside_the_folder_is_corrupt(path: object, tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    write_json(tmp_path / "modules.json", [{"idx": 0, "path": path, "type": "x.Transformer"}])
    with pytest.raises(CorruptModel, match="does not lead into the folder"):
        card(tmp_path)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"model_type": "SparseEncoder"}, UnsupportedModel),
        ({"prompts": {"query": 7}}, CorruptModel),
        ({"prompts": ["query"]}, CorruptModel),
        ({"prompts": {"query": ""}, "default_prompt_name": "other"}, CorruptModel),
    ],
)
def test_settings_that_are_not_served_are_refused(
    settings: dict[str, Any], error: type[EmbedDaemonError], tmp_path: Path
) -> None:
    TinyBert().write(tmp_path)
    write_json(tmp_path / "config_sentence_transformers.json", settings)
    with pytest.raises(error, match="config_sentence_transformers"):
        card(tmp_path)


def test_unknown_pooling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="attention_pool"):
        card(TinyBert(pooling={"pooling_mode": "attention_pool"}).write(tmp_path))


def test_digests_of_several_files_name_each_of_them(tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    tensors = sorted(TinyBert().tensors().items())
    half = len(tensors) // 2
    names = {"model-00001-of-00002.safetensors": tensors[:half], "model-00002-of-00002.safetensors": tensors[half:]}
    for name, part in names.items():
        save_weights(tmp_path / name, dict(part))
    (tmp_path / "model.safetensors").unlink()
    weight_map = {tensor: name for name, part in names.items() for tensor, _ in part}
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    assert card(tmp_path).weights_files == tuple(names)
    with pytest.raises(ConfigError, match="a digest for each"):
        card(tmp_path, sha256="0" * 64)
    digests = {name: f"{number}" * 64 for number, name in enumerate(names)}
    assert card(tmp_path, sha256=digests).files.sha256 == digests
    with pytest.raises(ConfigError, match="no digest of model-00002"):
        card(tmp_path, sha256={"model-00001-of-00002.safetensors": "0" * 64})
    with pytest.raises(ConfigError, match="names other"):
        card(tmp_path, sha256={**digests, "other.safetensors": "0" * 64})


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert"])
def test_family_that_counts_from_its_padding_token_takes_fewer_tokens(family: str, tmp_path: Path) -> None:
    config = {"model_type": family, "max_position_embeddings": 64, "pad_token_id": 1}
    folder = TinyBert(config=config, sentence_config=None, tokenizer_config={"model_max_length": 512}).write(tmp_path)
    read = card(folder)
    assert (read.family, read.max_tokens) == (family, 62)
    with pytest.raises(ConfigError, match="1 to 62"):
        card(folder, max_tokens=63)
