"""Jina BERT v2, both variants, against a plain forward that follows their published description."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import gelu, layer_norm
from torch.nn.functional import linear as dense

from embeddaemon.errors import UnsupportedModel
from embeddaemon.workers.engines import Rows
from embeddaemon.workers.engines.torch_engine.families import biased_attention
from embeddaemon.workers.engines.torch_engine.families.jina_v2 import slopes
from tests.support.checkpoints import Tensors
from tests.support.embedding import Embedder, card_of, cosines, embedder_of
from tests.support.families.jina_v2 import PUBLISHED, TinyJina
from tests.support.family_checks import (
    TEXTS,
    Written,
    alter_weights,
    check_family,
    check_no_number_is_asked_for,
    exchange_halves,
)

each_variant = pytest.mark.parametrize("kind", ["text", "code"])

Named = dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=PUBLISHED)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written[TinyJina]:
    return Written(PUBLISHED[request.param], tmp_path_factory.mktemp("written"))


def alibi(heads: int, length: int) -> torch.Tensor:
    """(heads, length, length), entry by entry."""

    def powers(count: int) -> list[float]:
        start = 2 ** (-(2 ** -(math.log2(count) - 3)))
        return [start * start**place for place in range(count)]

    def of(count: int) -> list[float]:
        if math.log2(count).is_integer():
            return powers(count)
        below = 2 ** math.floor(math.log2(count))
        return powers(below) + of(2 * below)[0::2][: count - below]

    falls = of(heads)
    return torch.tensor([[[-fall * abs(i - j) for j in range(length)] for i in range(length)] for fall in falls])


def hidden_states(named: Named, ids: Sequence[int], heads: int, layers: int) -> torch.Tensor:
    """One text, as the two published implementations compute it. (length, hidden)."""

    def norm(rows: torch.Tensor, name: str) -> torch.Tensor:
        return layer_norm(rows, rows.shape[-1:], named[f"{name}.weight"], named[f"{name}.bias"], 1e-12)

    def apply(rows: torch.Tensor, name: str) -> torch.Tensor:
        return dense(rows, named[f"{name}.weight"], named.get(f"{name}.bias"))

    words, types = (named[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "token_type"))
    rows = norm(words[list(ids)] + types[0], "embeddings.LayerNorm")
    for layer in (f"encoder.layer.{index}" for index in range(layers)):
        query, key, value = (apply(rows, f"{layer}.attention.self.{name}") for name in ("query", "key", "value"))
        is_code = f"{layer}.layer_norm_1.weight" in named
        if is_code:
            query, key = (
                norm(query, f"{layer}.attention.self.layer_norm_q"),
                norm(key, f"{layer}.attention.self.layer_norm_k"),
            )
        query, key, value = (part.view(len(ids), heads, -1).transpose(0, 1) for part in (query, key, value))
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]) + alibi(heads, len(ids))
        attended = (scores.softmax(-1) @ value).transpose(0, 1).reshape(rows.shape)
        seen = norm(apply(attended, f"{layer}.attention.output.dense") + rows, f"{layer}.attention.output.LayerNorm")
        rows = norm(rows + seen, f"{layer}.layer_norm_1") if is_code else seen
        first, second = apply(rows, f"{layer}.mlp.{'up_gated_layer' if is_code else 'gated_layers'}").chunk(2, dim=-1)
        mixed = first * gelu(second) if is_code else gelu(first) * second
        narrow, last = ("mlp.down_layer", "layer_norm_2") if is_code else ("mlp.wo", "mlp.layernorm")
        rows = norm(rows + apply(mixed, f"{layer}.{narrow}"), f"{layer}.{last}")
    return rows


def expected_of(folder: Path, embedder: Embedder, texts: Sequence[str]) -> Rows:
    """(texts, hidden): the mean of the states, of length one where the folder says so."""
    card = embedder.card
    named = {name.removeprefix("bert."): values for name, values in load_file(folder / "model.safetensors").items()}
    encoded = embedder.model.tokenize(texts, prompt="", max_tokens=card.max_tokens)
    states = (hidden_states(named, text.ids.tolist(), card.attention_heads, card.layers) for text in encoded)
    rows = torch.stack([state.mean(dim=0) for state in states])
    rows = rows / rows.norm(dim=1, keepdim=True) if card.normalize else rows
    return rows.numpy()


def test_vectors_equal_the_reference(written: Written[TinyJina]) -> None:
    check_family(written.embedder, expected_of(written.folder, written.embedder, TEXTS))


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        (4, [0.25, 0.0625, 0.015625, 0.00390625]),
        (8, [2.0**-power for power in range(1, 9)]),
        (12, [*(2.0**-power for power in range(1, 9)), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),
    ],
)
def test_slopes_are_those_of_the_paper(heads: int, expected: list[float]) -> None:
    """Guards: slopes for a number of heads that is no power of two taken from one geometric row."""
    assert slopes(heads) == pytest.approx(expected, rel=1e-12)


@each_variant
def test_halves_of_the_gate_are_told_apart(kind: str, tmp_path: Path) -> None:
    """Guards: the wrong half activated. With halves exchanged the vectors are others, and the reference's again."""
    folder = PUBLISHED[kind].write(tmp_path)
    before = embedder_of(folder).embed(TEXTS)
    exchange_halves(folder, "gated_layer")
    embedder = embedder_of(folder)
    assert np.abs(embedder.embed(TEXTS) - before).max(axis=1).min() > 1e-2
    np.testing.assert_allclose(embedder.embed(TEXTS), expected_of(folder, embedder, TEXTS), atol=1e-4)


@pytest.mark.parametrize(
    "pair",
    [
        ("layer_norm_1", "layer_norm_2"),
        ("attention.self.layer_norm_q", "attention.self.layer_norm_k"),
        ("layer_norm_1", "attention.output.LayerNorm"),
    ],
)
def test_norms_of_the_code_variant_are_told_apart(pair: tuple[str, str], tmp_path: Path) -> None:
    """Guards: norms left out or in another order. Exchanged they give other vectors."""
    folder = PUBLISHED["code"].write(tmp_path)
    before = embedder_of(folder).embed(TEXTS)

    def exchange(tensors: Tensors) -> None:
        for part in ("weight", "bias"):
            left, right = (f"encoder.layer.0.{name}.{part}" for name in pair)
            tensors[left], tensors[right] = tensors[right], tensors[left]

    alter_weights(folder, exchange)
    assert np.abs(embedder_of(folder).embed(TEXTS) - before).max(axis=1).min() > 1e-3


def test_bias_depends_on_the_distance_alone(written: Written[TinyJina]) -> None:
    """Guards: a load as BERT, which would have random positions. Words in another order are another text here, too."""
    left, right = written.embedder.embed(["red planet star", "star planet red"])
    assert np.abs(left - right).max() > 1e-3


@each_variant
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("room_bytes", [0, 2**30])
def test_long_text_equals_the_reference(
    kind: str, precision: str, room_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A length that is no multiple of anything, with room for a whole bias and without."""
    monkeypatch.setattr(biased_attention, "WHOLE_BIAS_BYTES", room_bytes)
    monkeypatch.setattr(biased_attention, "_LONG", 10**6)
    tiny = TinyJina(is_code=kind == "code", layers=1, sentence_config={"max_seq_length": 229})
    folder = tiny.write(tmp_path)
    embedder = Embedder(card_of(folder), precision)
    text = ["the red planet of the sea " * 50]
    expected = expected_of(folder, embedder, text)
    found = embedder.embed(text)
    if precision == "float32":
        np.testing.assert_allclose(found, expected, atol=1e-4)
    else:
        assert cosines(found, expected).min() > 0.9995


@each_variant
@pytest.mark.parametrize(
    ("option", "value"),
    [("position_embedding_type", "absolute"), ("feed_forward_type", "reglu"), ("hidden_act", "relu")],
)
def test_option_that_computes_something_else_is_refused(kind: str, option: str, value: str, tmp_path: Path) -> None:
    tiny = TinyJina(is_code=kind == "code", config={option: value})
    with pytest.raises(UnsupportedModel, match=option):
        embedder_of(tiny.write(tmp_path))


@pytest.mark.parametrize("option", ["position_embedding_type", "feed_forward_type"])
def test_option_that_must_be_there_is_missed(option: str, tmp_path: Path) -> None:
    config: dict[str, Any] = {option: None}
    with pytest.raises(UnsupportedModel, match=option):
        embedder_of(TinyJina(config=config).write(tmp_path))


@each_variant
@pytest.mark.parametrize("room_bytes", [0, 2**30])
def test_forward_asks_a_device_for_no_number(
    room_bytes: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(biased_attention, "WHOLE_BIAS_BYTES", room_bytes)
    check_no_number_is_asked_for(PUBLISHED[kind].write(tmp_path))
