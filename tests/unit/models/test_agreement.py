"""Files of a folder that contradict each other: found when the card is read, before a process is started for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.models.folder import read_card
from embeddaemon.models.spec import ModelSpec
from tests.support.checkpoints import TinyBert, write_json
from tests.support.families.decoders import TinyDecoder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def refuse(folder: Path, why: str, kind: type[Exception] = CorruptModel) -> None:
    with pytest.raises(kind, match=why):
        read_card(ModelSpec(name="tiny", source=f"path:{folder}"), folder)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"num_hidden_layers": 1}, "1 layers, the names of the tensors have 2, the last one number 1"),
        ({"num_hidden_layers": 3}, "3 layers, the names of the tensors have 2"),
        ({"num_attention_heads": 5}, "the hidden size 32 does not divide into 5 heads"),
        ({"vocab_size": 10}, r"vocab_size is 10, the table of words has \d+ rows"),
        ({"max_position_embeddings": 512}, "max_position_embeddings is 512, the table of positions has the shape"),
    ],
)
def test_sizes_that_contradict_the_tensors_are_corrupt(config: dict[str, Any], why: str, tmp_path: Path) -> None:
    refuse(TinyBert(config=config).write(tmp_path), why)


def test_keys_that_do_not_divide_the_heads_are_corrupt(tmp_path: Path) -> None:
    refuse(TinyDecoder(config={"num_key_value_heads": 3}).write(tmp_path), "4 heads do not divide into num_key_value")


@pytest.mark.parametrize("value", ["swish9", 3, ["gelu"]])
def test_activation_that_nobody_knows_is_refused_by_its_key(value: object, tmp_path: Path) -> None:
    folder = TinyBert(config={"hidden_act": value}).write(tmp_path)
    refuse(folder, "hidden_act is .* no activation that is known", UnsupportedModel)


def test_folder_without_a_tokenizer_is_corrupt(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path)
    (folder / "tokenizer.json").unlink()
    read_card(ModelSpec(name="tiny", source=f"path:{folder}"), folder)  # vocab.txt is enough
    (folder / "vocab.txt").write_text("")
    refuse(folder, r"vocab\.txt is empty")
    (folder / "vocab.txt").unlink()
    refuse(folder, "has no tokenizer")


@pytest.mark.parametrize(
    "cut",
    [
        lambda whole: "",
        lambda whole: whole[: whole.rindex("    }") + 5],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: f"[{whole}]",
        lambda whole: "{} x",
    ],
)
def test_tokenizer_that_is_cut_short_is_corrupt(cut: Callable[[str], str], tmp_path: Path) -> None:
    path = TinyBert().write(tmp_path) / "tokenizer.json"
    path.write_text(cut(path.read_text()))
    refuse(tmp_path, r"tokenizer\.json is not a tokenizer or is cut short")


def test_tokenizers_settings_that_are_no_json_are_corrupt(tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    refuse(tmp_path, r"tokenizer_config\.json: the file is not valid JSON")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "modules.json"])
def test_pointer_of_git_lfs_is_told_as_one(name: str, tmp_path: Path) -> None:
    TinyBert().write(tmp_path)
    (tmp_path / name).write_text(POINTER)
    refuse(tmp_path, f"{name} is a pointer of git-lfs, .* run `git lfs pull`")


def test_own_prompts_get_the_two_that_sentence_transformers_always_has(tmp_path: Path) -> None:
    """Guards: ``encode_document`` of a folder with query and passage puts nothing before a text, as in its source."""
    own = {"query": "query: ", "passage": "passage: "}
    TinyBert(prompts=own, default_prompt="query").write(tmp_path / "e5-small-v2")
    folder = tmp_path / "e5-small-v2"
    read = read_card(ModelSpec(name="tiny", source=f"path:{folder}"), folder)
    assert read.prompts == {**own, "document": ""}
    write_json(folder / "config_sentence_transformers.json", {"prompts": own})
    read = read_card(ModelSpec(name="tiny", source=f"path:{folder}"), folder)
    assert "encode_document puts nothing before a text, as in sentence-transformers; name a task: passage" in read.notes
