"""Who decides on pooling and length, and what of it is said to people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embeddaemon.models.card import ModelCard
from embeddaemon.models.folder import read_card
from embeddaemon.models.notes import length_notes, licence_notes, prompt_notes
from embeddaemon.models.spec import ModelSpec, Pooling
from embeddaemon.models.table import published
from tests.support.checkpoints import TinyBert


def card(folder: Path, **spec: Any) -> ModelCard:
    return read_card(ModelSpec(name="tiny", **{"source": f"path:{folder}", **spec}), folder)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"architectures": ["BertModel"]}, Pooling.MEAN),
        ({}, Pooling.MEAN),
        ({"model_type": "qwen2", "architectures": ["Qwen2Model"]}, Pooling.MEAN),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, Pooling.LAST_TOKEN),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "is_causal": True}, Pooling.LAST_TOKEN),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "is_causal": False}, Pooling.MEAN),
        ({"model_type": "qwen2", "architectures": ["Qwen2Model", "Qwen2ForCausalLM"]}, Pooling.MEAN),
    ],
)
def test_bare_transformer_is_pooled_as_sentence_transformers_does(
    config: dict[str, Any], pooling: Pooling, tmp_path: Path
) -> None:
    """Guards: a model that writes texts is pooled at its last token where the folder has no modules.json."""
    folder = TinyBert(config=config, pooling=None).write(tmp_path)
    assert card(folder).pooling == (pooling,)
    assert card(folder, pooling=(Pooling.CLS,)).pooling == (Pooling.CLS,)


def test_pooling_of_a_folder_with_modules_is_its_own_whatever_the_architecture(tmp_path: Path) -> None:
    folder = TinyBert(config={"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}).write(tmp_path)
    assert card(folder).pooling == (Pooling.MEAN,)


def test_bare_transformer_reads_no_length_and_no_prompts_but_the_tokenizers(tmp_path: Path) -> None:
    tiny = TinyBert(pooling=None, prompts={"query": "q: "}, tokenizer_config={"model_max_length": 40})
    read = card(tiny.write(tmp_path))
    assert (read.max_tokens, read.prompts, read.normalize) == (40, {}, False)


@pytest.mark.parametrize(
    ("max_tokens", "positions", "said", "noted"),
    [
        (512, 512, None, None),
        (256, 512, 256, None),
        (512, 512, 10**30, None),
        (2048, 2048, 8192, "the most that the model can do, though its folder says 8192"),
        (8192, 32768, 32768, "though it can do 32768: max_tokens raises that"),
        (8192, 32768, None, "though it can do 32768: max_tokens raises that"),
        (512, 8192, None, "though it can do 8192: max_tokens raises that"),
        (512, 8192, 512, None),
    ],
)
def test_length_that_is_less_than_the_folders_is_said(
    max_tokens: int, positions: int, said: int | None, noted: str | None
) -> None:
    notes = length_notes(max_tokens, positions, said)
    assert [noted in note for note in notes if noted] == [True] * bool(noted)
    assert bool(notes) is bool(noted)


@pytest.mark.parametrize(
    ("name", "prompts", "default_task", "noted"),
    [
        ("", {}, None, []),
        ("", {"query": "q: ", "document": ""}, None, []),
        ("", {"query": "q: ", "document": ""}, "document", []),
        ("", {"query": "q: ", "document": ""}, "query", ["the prompt of task 'query' goes before"]),
        ("", {"s2p_query": "x", "query": ""}, None, ["encode_query puts nothing before a text"]),
        ("e5-base-v2", {"query": "query: ", "passage": "passage: "}, None, ["every text needs a prompt"]),
        ("e5-base-v2", {"query": "query: ", "passage": "passage: "}, "query", ["the prompt of task 'query'"]),
        ("bge-base-en-v1.5", {"query": "q: ", "document": ""}, None, []),
    ],
)
def test_prompts_that_surprise_are_said(
    name: str, prompts: dict[str, str], default_task: str | None, noted: list[str]
) -> None:
    notes = prompt_notes(prompts, default_task, published(name))
    assert len(notes) == len(noted)
    assert all(note.startswith(start) for note, start in zip(notes, noted, strict=True))


@pytest.mark.parametrize(
    ("licence", "noted"),
    [
        ("apache-2.0", ()),
        (None, ()),
        ("cc-by-nc-4.0", ("the licence cc-by-nc-4.0 forbids commercial use",)),
        ("gemma", ("the licence is its own: Google's terms of use for Gemma",)),
    ],
)
def test_licence_that_asks_for_more_is_said(licence: str | None, noted: tuple[str, ...]) -> None:
    assert licence_notes(licence) == noted
