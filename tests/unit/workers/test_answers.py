"""Pooled rows to what was asked for, and the frames of an answer."""

import numpy as np
import pytest

from embeddaemon.errors import BadOutput
from embeddaemon.protocol import codec, link
from embeddaemon.protocol.messages import Embed, Tokens, Vectors
from embeddaemon.workers.answers import Sender, shape_rows, tokens_frames, vectors_frames
from embeddaemon.workers.engines import Rows
from embeddaemon.workers.requests import Tokenized
from tests.support.stub_engine import stub_card

SENDER = Sender(3, 9)
ITEM = link.Item(serial=12, model="shown", expires_in_ms=1000, queue_us=44)


def pooled() -> Rows:
    return np.array([[3, 0, 4, 0, 0, 0, 0, 12], [1, 1, 1, 1, 1, 1, 1, 1]], dtype=np.float32)


def unit(rows: Rows) -> Rows:
    norms: Rows = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / norms


@pytest.mark.parametrize("models_own", [True, False])
def test_normalised_vectors_have_unit_length_and_point_where_the_model_said(models_own: bool) -> None:
    rows = shape_rows(pooled(), Embed(id=1), stub_card(normalize=models_own))
    np.testing.assert_allclose(rows, unit(pooled()), rtol=1e-6)


def test_without_normalisation_the_models_own_pipeline_decides_the_length() -> None:
    request = Embed(id=1, normalize=False)
    np.testing.assert_array_equal(shape_rows(pooled(), request, stub_card(normalize=False)), pooled())
    np.testing.assert_allclose(shape_rows(pooled(), request, stub_card(normalize=True)), unit(pooled()), rtol=1e-6)


def test_fewer_dimensions_are_cut_after_the_models_own_normalisation() -> None:
    request = Embed(id=1, dimensions=4, normalize=False)
    expected = unit(pooled())[:, :4]
    np.testing.assert_allclose(shape_rows(pooled(), request, stub_card(normalize=True)), expected, rtol=1e-6)
    np.testing.assert_array_equal(shape_rows(pooled(), request, stub_card(normalize=False)), pooled()[:, :4])


@pytest.mark.parametrize("models_own", [True, False])
def test_fewer_dimensions_have_unit_length_again_when_normalised(models_own: bool) -> None:
    rows = shape_rows(pooled(), Embed(id=1, dimensions=4), stub_card(normalize=models_own))
    np.testing.assert_allclose(rows, unit(pooled()[:, :4]), rtol=1e-6)
    assert rows.flags.c_contiguous


def test_cut_vector_of_zeros_stays_zero() -> None:
    rows = np.array([[0, 0, 0, 0, 1, 0, 0, 0]], dtype=np.float32)
    assert not shape_rows(rows, Embed(id=1, dimensions=4), stub_card()).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vector_that_is_not_finite_is_bad_output(bad: float) -> None:
    rows = pooled()
    rows[1, 3] = bad
    with pytest.raises(BadOutput, match="1 of 2"):
        shape_rows(rows, Embed(id=1), stub_card())


def test_vector_of_zeros_is_bad_output() -> None:
    rows = pooled()
    rows[0] = 0
    with pytest.raises(BadOutput):
        shape_rows(rows, Embed(id=1), stub_card())


def tokenized(positions: list[int] | None) -> Tokenized:
    ids = [np.array([0, 5, 1], dtype=np.int32), np.array([0, 1], dtype=np.int32)]
    return Tokenized(ids, [0, 0], positions, (1,), len(positions or ids), 5)


def test_vectors_are_one_frame_in_the_order_of_the_texts() -> None:
    request = Embed(id=77)
    header, client_header, frame = vectors_frames(
        SENDER, ITEM, request, tokenized([1, 0, 1]), pooled(), tokenize_us=7, compute_us=8
    )
    result = link.decode_from_worker(header)
    assert result == link.Result(3, 9, 12, "", texts=3, tokens=5, tokenize_us=7, compute_us=8)
    answer = codec.decode_answer(client_header)
    assert isinstance(answer, Vectors)
    assert (answer.id, answer.model, answer.count, answer.dim, answer.truncated) == (77, "shown", 3, 8, (1,))
    assert (answer.timings.queue_us, answer.timings.tokenize_us, answer.timings.compute_us) == (44, 7, 8)
    received = np.frombuffer(frame, dtype="<f4").reshape(3, 8)
    np.testing.assert_array_equal(received, pooled()[[1, 0, 1]])


def test_tokens_are_ids_and_lengths_in_the_order_of_the_texts() -> None:
    header, client_header, ids, lengths = tokens_frames(SENDER, ITEM, 77, tokenized([1, 0, 1]), 7)
    result = link.decode_from_worker(header)
    assert isinstance(result, link.Result)
    assert (result.texts, result.tokens) == (3, 5)
    answer = codec.decode_answer(client_header)
    assert isinstance(answer, Tokens)
    assert (answer.count, answer.tokens) == (3, 7)
    assert np.frombuffer(ids, dtype="<i4").tolist() == [0, 1, 0, 5, 1, 0, 1]
    assert np.frombuffer(lengths, dtype="<i4").tolist() == [2, 3, 2]
