"""DeBERTa v2 and v3 against sentence-transformers, which computes each text by itself, unpadded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddaemon.errors import CorruptModel
from embeddaemon.workers.engines.torch_engine.attention import groups_of
from embeddaemon.workers.engines.torch_engine.families.deberta import MOST_SCORES, batches
from embeddaemon.workers.engines.torch_engine.rounding import rounded_up
from tests.support.embedding import embedder_of
from tests.support.families.deberta import PUBLISHED, TinyDeberta
from tests.support.family_checks import Written, states_alone


@pytest.fixture(scope="module", params=PUBLISHED)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written[TinyDeberta]:
    return Written(PUBLISHED[request.param], tmp_path_factory.mktemp("written"))


def test_filler_leaves_no_trace(written: Written[TinyDeberta]) -> None:
    """Guards: a mask left out, in attention or in the convolution, which looks one token ahead."""
    lengths = np.array([25, 26, 26, 28, 31], dtype=np.int32)
    assert len(list(batches(groups_of(lengths.tolist()), 4, 64))) == 2
    ids = np.arange(lengths.sum(), dtype=np.int32) * 7 % 60 + 4
    model = written.embedder.model
    np.testing.assert_allclose(model.forward(ids, lengths, None), states_alone(model, ids, lengths), atol=1e-4)


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


def test_table_of_positions_that_is_used_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="position_embeddings"):
        embedder_of(TinyDeberta(config={"position_biased_input": True}).write(tmp_path))
