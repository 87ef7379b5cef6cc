"""DeBERTa v2 and v3 against sentence-transformers, which computes each text by itself, unpadded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from embeddaemon.errors import CorruptModel
from embeddaemon.workers.engines.torch_engine.attention import groups_of
from embeddaemon.workers.engines.torch_engine.families.deberta import MOST_SCORES, batches
from embeddaemon.workers.engines.torch_engine.rounding import rounded_up
from tests.support.checkpoints import save_weights
from tests.support.embedding import card_of, cosines, embedder_of
from tests.support.families.deberta import TinyDeberta
from tests.support.family_checks import TEXTS, check_family, reference

TINY = {
    "v3": TinyDeberta(),
    "v3 with heads": TinyDeberta(has_head=True, heads=2, layers=3, intermediate=80, table_rows=300),
    "v2 xlarge": TinyDeberta(prefix="", convolves=True, shares_keys=False, has_positions=True, buckets=6),
}
each = pytest.mark.parametrize("kind", TINY)


@each
def test_vectors_equal_the_reference(kind: str, tmp_path: Path) -> None:
    folder = TINY[kind].write(tmp_path)
    embedder = embedder_of(folder)
    assert embedder.model.facts.family == "deberta"
    check_family(embedder, reference(folder, TEXTS))


@each
def test_card_has_the_sizes_that_memory_follows_from(kind: str, tmp_path: Path) -> None:
    tiny = TINY[kind]
    card = card_of(tiny.write(tmp_path))
    assert (card.hidden, card.layers, card.attention_heads) == (tiny.hidden, tiny.layers, tiny.heads)
    assert (card.key_value_heads, card.intermediate, card.gated) == (tiny.heads, tiny.intermediate, False)
    assert (card.vocabulary, card.dim, card.is_causal) == (tiny.words, tiny.hidden, False)


@each
def test_filler_leaves_no_trace(kind: str, tmp_path: Path) -> None:
    """Guards: a mask left out, in attention or in the convolution, which looks one token ahead."""
    embedder = embedder_of(TINY[kind].write(tmp_path))
    lengths = np.array([25, 26, 26, 28, 31], dtype=np.int32)
    assert len(list(batches(groups_of(lengths.tolist()), 4, 64))) == 2
    ids = np.arange(lengths.sum(), dtype=np.int32) * 7 % 60 + 4
    starts = np.cumsum(lengths) - lengths
    alone = [
        embedder.model.forward(ids[start : start + length], np.array([length], dtype=np.int32), None)
        for start, length in zip(starts, lengths, strict=True)
    ]
    np.testing.assert_allclose(embedder.model.forward(ids, lengths, None), np.concatenate(alone), atol=1e-4)


@given(st.lists(st.integers(1, 512), min_size=1, max_size=60), st.sampled_from([1, 4, 12, 24]))
def test_batches_hold_every_text_once_within_their_bounds(lengths: list[int], heads: int) -> None:
    planned = list(batches(groups_of(lengths), heads, 512))
    assert [length for batch in planned for length in batch.lengths] == lengths
    assert [batch.start for batch in planned] == [
        sum(sum(before.lengths) for before in planned[:index]) for index in range(len(planned))
    ]
    for batch in planned:
        longest = max(batch.lengths)
        assert batch.length == min(rounded_up(longest), 512)
        assert len(batch.lengths).bit_count() == 1
        assert min(batch.lengths) >= longest - longest // 8
        assert len(batch.lengths) == 1 or len(batch.lengths) * heads * batch.length**2 <= MOST_SCORES


@each
def test_bfloat16_stays_near_float32(kind: str, tmp_path: Path) -> None:
    folder = TINY[kind].write(tmp_path)
    assert cosines(embedder_of(folder).embed(TEXTS), embedder_of(folder, "bfloat16").embed(TEXTS)).min() > 0.99


@pytest.mark.parametrize("change", ["missing", "left over", "of another shape"])
def test_tensor_that_does_not_fit_is_refused(change: str, tmp_path: Path) -> None:
    path = TinyDeberta().write(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    name = "deberta.encoder.rel_embeddings.weight"
    if change == "left over":
        tensors["deberta.encoder.rel_embeddings_other.weight"] = tensors[name]
    elif change == "of another shape":
        tensors[name] = tensors[name][1:].copy()
    else:
        del tensors[name]
    save_weights(path, tensors)
    with pytest.raises(CorruptModel, match="rel_embeddings"):
        embedder_of(tmp_path)


def test_table_of_positions_that_is_used_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="position_embeddings"):
        embedder_of(TinyDeberta(config={"position_biased_input": True}).write(tmp_path))
