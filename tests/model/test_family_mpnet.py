"""MPNet against sentence-transformers with transformers' own class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from embeddaemon.errors import UnsupportedModel
from embeddaemon.workers.engines.torch_engine.families import biased_attention
from embeddaemon.workers.engines.torch_engine.families.mpnet import buckets
from tests.support.checkpoints import Tensors
from tests.support.embedding import cosines, embedder_of
from tests.support.families.mpnet import TinyMPNet
from tests.support.family_checks import TEXTS, alter_weights, check_no_number_is_asked_for, reference, states_alone

LONG = TinyMPNet(positions=514, sentence_config=None)


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
    folder = TinyMPNet().write(tmp_path)
    expected = embedder_of(folder).embed(TEXTS)

    def turn(tensors: Tensors) -> None:
        name = "encoder.relative_attention_bias.weight"
        tensors[name] = tensors[name][::-1].copy()

    alter_weights(folder, turn)
    assert np.abs(embedder_of(folder).embed(TEXTS) - expected)[1:].max(axis=1).min() > 1e-3


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
    alone = states_alone(embedder_of(folder).model, ids, sizes)
    np.testing.assert_allclose(together, alone, atol=0.06)
    assert cosines(together, alone).min() > 0.999


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
    monkeypatch.setattr(biased_attention, "WHOLE_BIAS_BYTES", room_bytes)
    check_no_number_is_asked_for(TinyMPNet().write(tmp_path))
