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
from tests.support.checkpoints import TinyBert, save_weights
from tests.support.embedding import card_of, cosines, embedder_of
from tests.support.families.distilbert import TinyDistilbert, TinyElectra
from tests.support.family_checks import TEXTS, check_family, reference

TINY = {
    "distilbert": TinyDistilbert(),
    "distilbert-head": TinyDistilbert(prefix="distilbert.", has_head=True, heads=2, layers=3, intermediate=80),
    "electra": TinyElectra(),
    "electra-head": TinyElectra(prefix="electra.", has_head=True, old_names=True, embedding=32, heads=2, layers=3),
}
each = pytest.mark.parametrize("kind", TINY)


@each
def test_vectors_equal_the_reference(kind: str, tmp_path: Path) -> None:
    folder = TINY[kind].write(tmp_path)
    embedder = embedder_of(folder)
    assert embedder.model.facts.family == kind.removesuffix("-head")
    check_family(embedder, reference(folder, TEXTS))


@each
def test_norms_have_the_epsilon_of_the_family(kind: str, tmp_path: Path) -> None:
    """Guards: an epsilon that is not the published class's, which only shows where what is normed is small."""
    path = TINY[kind].write(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    small = {name: values * (1e-3 if "_embeddings" in name else 1) for name, values in tensors.items()}
    save_weights(path, {name: values.astype(tensors[name].dtype) for name, values in small.items()})
    check_family(embedder_of(tmp_path), reference(tmp_path, TEXTS))


@each
def test_card_has_the_sizes_that_memory_follows_from(kind: str, tmp_path: Path) -> None:
    tiny = TINY[kind]
    card = card_of(tiny.write(tmp_path))
    assert (card.hidden, card.layers, card.attention_heads) == (tiny.hidden, tiny.layers, tiny.heads)
    assert (card.key_value_heads, card.intermediate, card.gated) == (tiny.heads, tiny.intermediate, False)
    assert not card.is_causal
    assert (card.vocabulary, card.dim) == (tiny.words, tiny.hidden)


@each
def test_head_of_another_task_is_neither_counted_nor_held(kind: str, tmp_path: Path) -> None:
    tiny = TINY[kind]
    embedder = embedder_of(tiny.write(tmp_path))
    # As BERT, DistilBERT has one type of token.
    held = embedder.card.parameters + (tiny.hidden if isinstance(tiny, TinyDistilbert) else 0)
    assert embedder.model.facts.parameters == held
    assert embedder.card.parameters < sum(
        values.size for values in load_file(tmp_path / "model.safetensors").values()
    ) or not kind.endswith("-head")


@each
def test_bfloat16_stays_near_float32(kind: str, tmp_path: Path) -> None:
    folder = TINY[kind].write(tmp_path)
    assert cosines(embedder_of(folder).embed(TEXTS), embedder_of(folder, "bfloat16").embed(TEXTS)).min() > 0.99


@each
@pytest.mark.parametrize("change", ["missing", "left over", "of another shape"])
def test_tensor_that_does_not_fit_is_refused(kind: str, change: str, tmp_path: Path) -> None:
    path = TINY[kind].write(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(("lin1.weight", "intermediate.dense.weight")))
    if change == "left over":
        tensors[f"{name}_other"] = tensors[name]
    elif change == "of another shape":
        tensors[name] = tensors[name][1:].copy()
    else:
        del tensors[name]
    save_weights(path, tensors)
    with pytest.raises(CorruptModel, match=r"lin1|intermediate"):
        embedder_of(tmp_path)


def test_pieces_of_the_feed_forward_layers_do_not_depend_on_the_row(tmp_path: Path) -> None:
    """A row of texts is no multiple of the pieces that such a config asks for; in pieces or not, it is the same."""
    folder = TinyDistilbert(config={"chunk_size_feed_forward": 7}).write(tmp_path / "pieces")
    plain = TinyDistilbert().write(tmp_path / "plain")
    check_family(embedder_of(folder), reference(plain, TEXTS))


@pytest.mark.parametrize(("kind", "is_bert"), [("distilbert", True), ("electra", False), ("electra-head", True)])
def test_what_is_bert_by_another_name_is_computed_as_bert(kind: str, is_bert: bool, tmp_path: Path) -> None:
    card = card_of(TINY[kind].write(tmp_path))
    config = read_json(tmp_path / "config.json").values
    attention.register()
    assert encoder.suits(families.family_of(card).build(config, card, torch.float32)) == is_bert


@pytest.mark.parametrize("kind", ["distilbert", "electra-head"])
def test_activation_is_the_one_of_the_config(kind: str, tmp_path: Path) -> None:
    """Guards: GELU taken for granted where BERT's functional form has no other."""
    key = "activation" if kind == "distilbert" else "hidden_act"
    folder = replace(TINY[kind], config={key: "relu"}).write(tmp_path)
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
