"""Folders that are odd and legal: other keys, dtypes, files and tensors than most have, and the same vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from embeddaemon.errors import CorruptModel
from tests.support.checkpoints import Tensors, TinyBert, save_weights, write_json
from tests.support.embedding import cosines, embedder_of
from tests.support.families.decoders import TinyGemma, TinyQwen2
from tests.support.families.gte import TinyGte
from tests.support.families.jina_v2 import TinyJina
from tests.support.families.modernbert import TinyModernBert
from tests.support.families.nomic import TinyNomic

TINY: dict[str, TinyBert] = {
    "gte": TinyGte(prefix="new."),
    "nomic": TinyNomic(),
    "modernbert": TinyModernBert(),
    "jina": TinyJina(),
    "qwen2": TinyQwen2(),
    "gemma": TinyGemma(),
}
TEXTS = ("the red planet", "what is the moon of the red planet?", "a")

_UNREAD = ("architectures", "attention_dropout", "hidden_dropout_prob", "initializer_range", "torch_dtype", "use_cache")


def say(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, **values})


def without_keys_that_nobody_reads(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {key: value for key, value in config.items() if key not in _UNREAD})


def with_tensors_of_old_files(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    old: Tensors = {
        "embeddings.position_ids": np.arange(64)[None],
        "layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, dtype=np.float32),
        "pooler.dense.weight": np.ones((2, 2), dtype=np.float32),
        "cls.predictions.bias": np.ones(2, dtype=np.float32),
    }
    save_weights(folder / "model.safetensors", {**tensors, **old})


def with_a_tokenizer_that_cuts_and_pads(folder: Path) -> None:
    rust = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rust.enable_truncation(3)
    rust.enable_padding(length=6)
    rust.save(str(folder / "tokenizer.json"))


def with_a_token_beyond_the_rows(folder: Path) -> None:
    rust = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = next(len(rows) for name, rows in load_file(folder / "model.safetensors").items() if name.endswith(_WORDS))
    rust.add_special_tokens([f"<{number}>" for number in range(1 + rows - rust.get_vocab_size())])
    assert max(rust.get_vocab().values()) >= rows
    rust.save(str(folder / "tokenizer.json"))


def in_two_files(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = {name: f"model-{1 + index % 2:05}-of-00002.safetensors" for index, name in enumerate(tensors)}
    for file in set(names.values()):
        save_weights(folder / file, {name: values for name, values in tensors.items() if names[name] == file})
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": names})
    (folder / "model.safetensors").unlink()


def with_the_transformer_in_its_own_folder(folder: Path) -> None:
    (folder / "0_Transformer").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file() and path.name != "modules.json"]:
        path.rename(folder / "0_Transformer" / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", [{**modules[0], "path": "0_Transformer"}, *modules[1:]])


_WORDS = ("word_embeddings.weight", "embed_tokens.weight", "tok_embeddings.weight")

ODD: dict[str, Callable[[Path], None]] = {
    "half as dtype of the config": lambda folder: say(folder, torch_dtype="float16"),
    "dtype by its new key": lambda folder: say(folder, dtype="bfloat16"),
    "outputs that nobody takes": lambda folder: say(folder, output_hidden_states=True, output_attentions=True),
    "outputs as a tuple": lambda folder: say(folder, return_dict=False),
    "pieces of feed-forward": lambda folder: say(folder, chunk_size_feed_forward=16),
    "keys that nobody reads": without_keys_that_nobody_reads,
    "tensors of old files": with_tensors_of_old_files,
    "a tokenizer that cuts and pads": with_a_tokenizer_that_cuts_and_pads,
    "a token beyond the rows": with_a_token_beyond_the_rows,
    "two files": in_two_files,
    "its own folder": with_the_transformer_in_its_own_folder,
}


@pytest.mark.parametrize("name", TINY)
def test_odd_and_legal_folder_gives_the_same_vectors(name: str, tmp_path: Path) -> None:
    """Guards: fillers of the tokenizer's file as part of every text, tuples where states are looked for."""
    expected = embedder_of(TINY[name].write(tmp_path / "usual")).embed(TEXTS)
    for number, (what, change) in enumerate(ODD.items()):
        folder = TINY[name].write(tmp_path / str(number))
        change(folder)
        np.testing.assert_allclose(embedder_of(folder).embed(TEXTS), expected, atol=1e-5, err_msg=what)


@pytest.mark.parametrize("name", TINY)
def test_file_of_halves_gives_nearly_the_same_vectors(name: str, tmp_path: Path) -> None:
    folder = TINY[name].write(tmp_path)
    expected = embedder_of(folder).embed(TEXTS)
    tensors = load_file(folder / "model.safetensors")
    save_weights(folder / "model.safetensors", {key: values.astype(np.float16) for key, values in tensors.items()})
    assert cosines(embedder_of(folder).embed(TEXTS), expected).min() > 0.9999


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("gte", "layer_norm_eps"),
        ("nomic", "layer_norm_epsilon"),
        ("jina", "layer_norm_eps"),
        ("modernbert", "norm_eps"),
        ("qwen2", "rms_norm_eps"),
        ("gemma", "rms_norm_eps"),
    ],
)
def test_epsilon_is_the_one_of_the_config(name: str, key: str, tmp_path: Path) -> None:
    """Guards: one that is taken for granted, which hardly shows with the usual weights."""
    folder = TINY[name].write(tmp_path)
    usual = embedder_of(folder).embed(TEXTS)
    say(folder, **{key: 0.3})
    assert np.abs(embedder_of(folder).embed(TEXTS) - usual).max(axis=1).min() > 1e-3


@pytest.mark.parametrize("tiny", [TinyBert(), TINY["gte"], TINY["gemma"]], ids=["bert", "gte", "gemma"])
def test_config_that_transformers_cannot_take_is_corrupt(tiny: TinyBert, tmp_path: Path) -> None:
    """Guards: an error that is none of ours, which looks like a crash of the worker and has it started again."""
    folder = tiny.write(tmp_path)
    say(folder, use_return_dict=False)
    with pytest.raises(CorruptModel, match=r"config\.json makes no"):
        embedder_of(folder)
