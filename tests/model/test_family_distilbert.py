"""DistilBERT and ELECTRA against sentence-transformers with transformers' own classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from embeddaemon.errors import CorruptModel
from embeddaemon.models.jsonfile import read_json
from embeddaemon.workers.engines.torch_engine import attention, encoder, families
from tests.support.checkpoints import Tensors, TinyBert
from tests.support.embedding import card_of, embedder_of
from tests.support.families.distilbert import PUBLISHED, TinyDistilbert, TinyElectra
from tests.support.family_checks import TEXTS, alter_weights, check_family, reference

each = pytest.mark.parametrize("kind", PUBLISHED)


@each
def test_norms_have_the_epsilon_of_the_family(kind: str, tmp_path: Path) -> None:
    """Guards: an epsilon that is not the published class's, which only shows where what is normed is small."""

    def shrink(tensors: Tensors) -> None:
        for name in [name for name in tensors if "_embeddings" in name]:
            tensors[name] = (tensors[name] * 1e-3).astype(tensors[name].dtype)

    alter_weights(PUBLISHED[kind].write(tmp_path), shrink)
    check_family(embedder_of(tmp_path), reference(tmp_path, TEXTS))


@pytest.mark.parametrize("kind", ["distilbert-head", "electra-head"])
def test_head_of_another_task_is_not_counted(kind: str, tmp_path: Path) -> None:
    folder = PUBLISHED[kind].write(tmp_path)
    assert card_of(folder).parameters < sum(part.size for part in load_file(folder / "model.safetensors").values())


def test_pieces_of_the_feed_forward_layers_do_not_depend_on_the_row(tmp_path: Path) -> None:
    """A row of texts is no multiple of the pieces that such a config asks for; in pieces or not, it is the same."""
    folder = TinyDistilbert(config={"chunk_size_feed_forward": 7}).write(tmp_path / "pieces")
    plain = TinyDistilbert().write(tmp_path / "plain")
    check_family(embedder_of(folder), reference(plain, TEXTS))


@pytest.mark.parametrize(("kind", "is_bert"), [("distilbert", True), ("electra", False), ("electra-head", True)])
def test_what_is_bert_by_another_name_is_computed_as_bert(kind: str, is_bert: bool, tmp_path: Path) -> None:
    card = card_of(PUBLISHED[kind].write(tmp_path))
    config = read_json(tmp_path / "config.json").values
    attention.register()
    assert encoder.suits(families.family_of(card).build(config, card, torch.float32)) == is_bert


@pytest.mark.parametrize("kind", ["distilbert", "electra-head"])
def test_activation_is_the_one_of_the_config(kind: str, tmp_path: Path) -> None:
    """Guards: GELU taken for granted where BERT's functional form has no other."""
    key = "activation" if kind == "distilbert" else "hidden_act"
    folder = replace(PUBLISHED[kind], config={key: "relu"}).write(tmp_path)
    check_family(embedder_of(folder), reference(folder, TEXTS))


@pytest.mark.parametrize("key", ["dim", "n_layers", "n_heads", "hidden_dim"])
def test_size_that_the_config_does_not_tell_is_not_assumed(key: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=rf"'{key}'|missing"):
        embedder_of(TinyDistilbert(config={key: None}).write(tmp_path))


def test_electra_without_its_widening_layer_is_no_bert(tmp_path: Path) -> None:
    """Guards: an ELECTRA file read as BERT would have tables of the wrong width, not other vectors."""
    folder = TinyElectra().write(tmp_path)
    TinyBert(layers=2).write(tmp_path / "bert")
    (folder / "config.json").write_bytes((tmp_path / "bert" / "config.json").read_bytes())
    with pytest.raises(CorruptModel, match="embeddings_project"):
        embedder_of(folder)
