"""Jina BERT v2, both variants, against a plain forward that follows their published description."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import gelu, layer_norm
from torch.nn.functional import linear as dense

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.models.jsonfile import read_json
from embeddaemon.workers.engines import Rows
from embeddaemon.workers.engines.torch_engine.attention import groups_of
from embeddaemon.workers.engines.torch_engine.families import biased_attention, jina_v2
from embeddaemon.workers.engines.torch_engine.families.jina_v2 import slopes
from tests.support.embedding import Embedder, card_of, cosines, embedder_of
from tests.support.families.jina_v2 import TinyJina
from tests.support.family_checks import TEXTS, check_family

TINY = {
    "text": TinyJina(),
    "code": TinyJina(is_code=True),
    "text-masked-lm": TinyJina(prefix="bert.", heads=8, hidden=32, layers=3, intermediate=40, normalize=True),
    "code-masked-lm": TinyJina(prefix="bert.", heads=6, hidden=48, is_code=True, has_pooler=False, table_rows=400),
}
each = pytest.mark.parametrize("kind", TINY)
each_variant = pytest.mark.parametrize("kind", ["text", "code"])

Named = dict[str, torch.Tensor]


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


def change(folder: Path, alter: Callable[[Named], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    alter(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@each
def test_vectors_equal_the_reference(kind: str, tmp_path: Path) -> None:
    folder = TINY[kind].write(tmp_path)
    embedder = embedder_of(folder)
    assert embedder.model.facts.family == ("jina-v2-code" if kind.startswith("code") else "jina-v2")
    check_family(embedder, expected_of(folder, embedder, TEXTS))


@each
def test_card_has_the_sizes_that_memory_follows_from(kind: str, tmp_path: Path) -> None:
    tiny = TINY[kind]
    card = card_of(tiny.write(tmp_path))
    assert (card.hidden, card.layers, card.attention_heads) == (tiny.hidden, tiny.layers, tiny.heads)
    assert (card.key_value_heads, card.intermediate, card.gated) == (tiny.heads, tiny.intermediate, True)
    assert (card.vocabulary, card.dim, card.is_causal) == (tiny.words, tiny.hidden, False)


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
    folder = TINY[kind].write(tmp_path)
    before = embedder_of(folder).embed(TEXTS)

    def exchange(tensors: Named) -> None:
        for name in [name for name in tensors if "gated_layer" in name]:
            tensors[name] = torch.cat(tensors[name].chunk(2)[::-1])

    change(folder, exchange)
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
    folder = TINY["code"].write(tmp_path)
    before = embedder_of(folder).embed(TEXTS)

    def exchange(tensors: Named) -> None:
        for part in ("weight", "bias"):
            left, right = (f"encoder.layer.0.{name}.{part}" for name in pair)
            tensors[left], tensors[right] = tensors[right], tensors[left]

    change(folder, exchange)
    assert np.abs(embedder_of(folder).embed(TEXTS) - before).max(axis=1).min() > 1e-3


@each_variant
def test_bias_depends_on_the_distance_alone(kind: str, tmp_path: Path) -> None:
    """Guards: a load as BERT, which would have random positions. Words in another order are another text here, too."""
    embedder = embedder_of(TINY[kind].write(tmp_path))
    left, right = embedder.embed(["red planet star", "star planet red"])
    assert np.abs(left - right).max() > 1e-3


@each_variant
def test_bfloat16_stays_near_float32(kind: str, tmp_path: Path) -> None:
    folder = TINY[kind].write(tmp_path)
    assert cosines(embedder_of(folder).embed(TEXTS), embedder_of(folder, "bfloat16").embed(TEXTS)).min() > 0.999


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


@each
@pytest.mark.parametrize("what", ["missing", "left over", "of another shape"])
def test_tensor_that_does_not_fit_is_refused(kind: str, what: str, tmp_path: Path) -> None:
    """Guards: the load as BERT, which makes up what it does not find."""
    folder = TINY[kind].write(tmp_path)
    (name, *_) = (
        name for name in load_file(folder / "model.safetensors") if ".1.mlp.down" in name or ".1.mlp.wo" in name
    )

    def alter(tensors: Named) -> None:
        if what == "left over":
            tensors[f"{name}_other"] = tensors[name].clone()
        elif what == "of another shape":
            tensors[name] = tensors[name][1:].clone()
        else:
            del tensors[name]

    change(folder, alter)
    with pytest.raises(CorruptModel, match=r"mlp\.(down_layer|wo)"):
        embedder_of(folder)


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
    """Guards: waiting for the device between layers. A device without memory has no numbers to give."""
    monkeypatch.setattr(biased_attention, "WHOLE_BIAS_BYTES", room_bytes)
    card = card_of(TINY[kind].write(tmp_path))
    weights = jina_v2.build(read_json(tmp_path / "config.json").values, card, torch.float32).to("meta")
    ids = torch.zeros(30, dtype=torch.long, device="meta")
    states = jina_v2.functional(weights)(ids, ids, groups_of([3, 3, 5, 19]))
    assert (states.shape, states.device.type) == ((30, card.hidden), "meta")
