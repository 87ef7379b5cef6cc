"""MPNet against sentence-transformers with transformers' own class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.models.jsonfile import read_json
from embeddaemon.workers.engines.torch_engine.attention import groups_of
from embeddaemon.workers.engines.torch_engine.families import biased_attention, mpnet
from embeddaemon.workers.engines.torch_engine.families.mpnet import buckets
from tests.support.checkpoints import save_weights
from tests.support.embedding import card_of, cosines, embedder_of
from tests.support.families.mpnet import TinyMPNet
from tests.support.family_checks import TEXTS, check_family, reference

TINY = {
    "published": TinyMPNet(),
    "with a head": TinyMPNet(prefix="mpnet.", heads=2, layers=3, intermediate=80, table_rows=200, old_names=True),
}
each = pytest.mark.parametrize("kind", TINY)

LONG = TinyMPNet(positions=514, sentence_config=None)


@each
def test_vectors_equal_the_reference(kind: str, tmp_path: Path) -> None:
    folder = TINY[kind].write(tmp_path)
    embedder = embedder_of(folder)
    assert embedder.model.facts.family == "mpnet"
    check_family(embedder, reference(folder, TEXTS))


@each
def test_card_has_the_sizes_that_memory_follows_from(kind: str, tmp_path: Path) -> None:
    tiny = TINY[kind]
    card = card_of(tiny.write(tmp_path))
    assert (card.hidden, card.layers, card.attention_heads) == (tiny.hidden, tiny.layers, tiny.heads)
    assert (card.key_value_heads, card.intermediate, card.gated) == (tiny.heads, tiny.intermediate, False)
    assert (card.vocabulary, card.dim, card.is_causal) == (tiny.words, tiny.hidden, False)


def test_every_distance_has_the_bucket_of_the_published_code() -> None:
    """Guards: directions swapped, a bucket too far, logarithms in another precision."""
    places = torch.arange(520)
    apart = places[None, :] - places[:, None]  # (query, key)
    expected = MPNetEncoder.relative_position_bucket(apart)  # type: ignore[no-untyped-call]  # transformers gives none
    found = buckets(520)  # by key minus query
    assert torch.equal(expected, found[apart + 519])
    assert len(set(found.tolist())) == 31  # the one for a distance of nothing behind has no distance


def test_long_texts_equal_the_reference(tmp_path: Path) -> None:
    """Guards: buckets of logarithms, which short texts hardly reach, and biases that are views of one line."""
    folder = LONG.write(tmp_path)
    embedder = embedder_of(folder)
    assert embedder.card.max_tokens == 512
    texts = [f"{word} the red planet of the sea " * count for word, count in (("a", 20), ("sun", 45), ("old", 100))]
    np.testing.assert_allclose(embedder.embed(texts), reference(folder, texts), atol=1e-4)


def test_other_bias_gives_other_vectors(tmp_path: Path) -> None:
    """Guards: a bias that is read and not used."""
    path = TinyMPNet().write(tmp_path) / "model.safetensors"
    expected = embedder_of(tmp_path).embed(TEXTS)
    tensors = load_file(path)
    tensors["encoder.relative_attention_bias.weight"] = tensors["encoder.relative_attention_bias.weight"][::-1].copy()
    save_weights(path, tensors)
    assert np.abs(embedder_of(tmp_path).embed(TEXTS) - expected)[1:].max(axis=1).min() > 1e-3


def test_padding_token_within_a_text_is_counted_as_the_reference_counts_it(tmp_path: Path) -> None:
    """Guards: positions by their number alone. RoBERTa's way stays at the padding token's place for it."""
    texts = ["the red <pad> planet", "<pad>", "sun <pad> moon <pad> the", "the red planet"]
    folder = TinyMPNet().write(tmp_path)
    np.testing.assert_allclose(embedder_of(folder).embed(texts), reference(folder, texts), atol=1e-5)


@pytest.mark.parametrize("lengths", [[1, 3, 16, 17, 40, 40, 62], [7], [62] * 3, [20, 21, 22, 23, 60]])
def test_bfloat16_in_blocks_equals_float32_text_by_text(lengths: list[int], tmp_path: Path) -> None:
    folder = TinyMPNet(normalize=False).write(tmp_path)
    ids = np.arange(sum(lengths), dtype=np.int32) * 7 % 60 + 5
    sizes = np.array(lengths, dtype=np.int32)
    together = embedder_of(folder, "bfloat16").model.forward(ids, sizes, None)
    exact = embedder_of(folder).model
    starts = np.cumsum(sizes) - sizes
    alone = [
        exact.forward(ids[start : start + size], np.array([size]), None)
        for start, size in zip(starts, sizes, strict=True)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=0.06)
    assert cosines(together, np.concatenate(alone)).min() > 0.999


@each
def test_bfloat16_stays_near_float32(kind: str, tmp_path: Path) -> None:
    folder = TINY[kind].write(tmp_path)
    assert cosines(embedder_of(folder).embed(TEXTS), embedder_of(folder, "bfloat16").embed(TEXTS)).min() > 0.999


@pytest.mark.parametrize("change", ["missing", "left over", "of another shape"])
def test_tensor_that_does_not_fit_is_refused(change: str, tmp_path: Path) -> None:
    path = TinyMPNet().write(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    name = "encoder.layer.1.attention.attn.o.weight"
    if change == "left over":
        tensors["encoder.layer.1.attention.attn.p.weight"] = tensors[name]
    elif change == "of another shape":
        tensors[name] = tensors[name][1:].copy()
    else:
        del tensors[name]
    save_weights(path, tensors)
    with pytest.raises(CorruptModel, match=r"attention\.attn\.[op]"):
        embedder_of(tmp_path)


@pytest.mark.parametrize(
    ("option", "value"), [("hidden_act", "relu"), ("pad_token_id", 0), ("relative_attention_num_buckets", 64)]
)
def test_option_that_computes_something_else_is_refused(option: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=option):
        embedder_of(TinyMPNet(config={option: value}).write(tmp_path))


def test_int8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="int8"):
        embedder_of(TinyMPNet().write(tmp_path), "int8")


@pytest.mark.parametrize("room_bytes", [0, 2**30])
def test_forward_asks_a_device_for_no_number(room_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: waiting for the device between layers. A device without memory has no numbers to give."""
    monkeypatch.setattr(biased_attention, "WHOLE_BIAS_BYTES", room_bytes)
    card = card_of(TinyMPNet().write(tmp_path))
    weights = mpnet.build(read_json(tmp_path / "config.json").values, card, torch.float32).to("meta")
    ids = torch.zeros(30, dtype=torch.long, device="meta")
    states = mpnet.functional(weights)(ids, ids, groups_of([3, 3, 5, 19]))
    assert (states.shape, states.device.type) == ((30, card.hidden), "meta")
