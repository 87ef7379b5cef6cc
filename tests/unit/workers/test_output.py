"""Pooled rows to the numbers of an answer: head, length, dimensions, precision, and which values 8 bits stand for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from embeddaemon.errors import BadOutput, InvalidInput
from embeddaemon.models.card import Dense, Head, ModelCard
from embeddaemon.protocol.messages import Embed
from embeddaemon.protocol.numbers import read, written
from embeddaemon.protocol.precisions import PRECISIONS
from embeddaemon.workers.engines import Rows
from embeddaemon.workers.output import Outputs, shape_rows
from embeddaemon.workers.ranges import pooled_prose, ranges_of
from tests.support.stub_engine import StubModel, stub_card, stub_order


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


def test_no_vectors_are_not_bad_output() -> None:
    assert shape_rows(pooled()[:0], Embed(id=1), stub_card()).shape == (0, pooled().shape[1])


def test_vector_of_zeros_is_bad_output() -> None:
    rows = pooled()
    rows[0] = 0
    with pytest.raises(BadOutput):
        shape_rows(rows, Embed(id=1), stub_card())


def test_vector_is_normalised_as_a_layer_before_it_is_cut_where_the_model_wants_that() -> None:
    """Guards nomic v1.5: its shorter vectors are not the beginning of its long ones."""
    card = replace(stub_card(), cut_after_layer_norm=True)
    rows, dimensions = random_rows(5, 8), Embed(id=1, dimensions=4)
    normed = rows - rows.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(shape_rows(rows.copy(), dimensions, card), unit(normed[:, :4]), atol=1e-6)
    np.testing.assert_allclose(shape_rows(rows.copy(), Embed(id=1), card), unit(rows), atol=1e-6)


def random_rows(texts: int, dim: int) -> Rows:
    return np.random.default_rng(7).standard_normal((texts, dim)).astype(np.float32)


def outputs(card: ModelCard | None = None) -> Outputs:
    card = card or stub_card()
    return Outputs(StubModel(stub_order(card)), card)


def prose_of(card: ModelCard) -> Rows:
    return pooled_prose(StubModel(stub_order(card)), card, lambda: None)


def unneeded() -> Rows:
    raise AssertionError("prose is needed for 8 bits only")


def test_head_is_chosen_by_the_dimensions_of_the_request() -> None:
    heads = tuple(
        Head(dim=dim, layers=(Dense(file="", in_features=8, out_features=dim, has_bias=False, activation="Identity"),))
        for dim in (16, 24, 3)
    )
    card = replace(stub_card(normalize=False), dim=16, heads=heads, dimensions=(24, 16, 5, 3))
    rows = random_rows(4, 8)
    for asked, dim in ((None, 16), (24, 24), (3, 3), (5, 5)):
        output = outputs(card).of(rows.copy(), Embed(id=1, dimensions=asked, normalize=False), unneeded)
        assert (output.dim, output.numbers.shape) == (dim, (4, dim))
    cut = outputs(card).of(rows.copy(), Embed(id=1, dimensions=5), unneeded)
    np.testing.assert_allclose(cut.numbers, unit(rows[:, :5]), atol=1e-6)


@pytest.mark.parametrize("precision", list(PRECISIONS))
@pytest.mark.parametrize("texts", [1, 3, 700])
def test_numbers_are_those_of_sentence_transformers_given_the_same_ranges(precision: str, texts: int) -> None:
    from sentence_transformers.util.quantization import quantize_embeddings

    card = stub_card(dim=20)
    rows = random_rows(texts, 20) * np.linspace(0.1, 3, 20, dtype=np.float32)
    request = Embed(id=1, precision=precision)
    output = outputs(card).of(rows.copy(), request, lambda: prose_of(card))
    vectors = shape_rows(rows.copy(), request, card)
    if precision == "float16":
        expected: Any = vectors.astype(np.float16)
    else:
        expected = quantize_embeddings(vectors, cast("Any", precision), ranges=output.ranges)
    assert output.numbers.dtype == expected.dtype
    if precision == "float32":  # parts of a large request may differ in a last bit
        np.testing.assert_allclose(output.numbers, expected, atol=1e-6)
    else:
        np.testing.assert_array_equal(output.numbers, expected)
    assert (output.ranges is not None) == (precision in {"int8", "uint8"})


def test_same_text_has_the_same_numbers_in_any_company() -> None:
    """Guards against ranges of the request's own vectors, which the definition takes where it is given none."""
    card, rows = stub_card(), random_rows(50, 8)
    many = outputs(card).of(rows.copy(), Embed(id=1, precision="int8"), lambda: prose_of(card))
    alone = outputs(card).of(rows[7:8].copy(), Embed(id=1, precision="int8"), lambda: prose_of(card))
    np.testing.assert_array_equal(alone.numbers[0], many.numbers[7])
    np.testing.assert_array_equal(alone.ranges, many.ranges)


def test_prose_is_computed_once_and_ranges_are_of_dimensions_and_normalisation() -> None:
    card, asked = stub_card(normalize=False), []

    def prose() -> Rows:
        asked.append(1)
        return prose_of(card)

    one = outputs(card)
    options = ((None, True), (None, False), (4, True), (4, False), (None, True))
    found = [
        one.of(random_rows(2, 8), Embed(id=1, precision="uint8", dimensions=dimensions, normalize=normalize), prose)
        for dimensions, normalize in options
    ]
    assert asked == [1]
    assert [each.ranges is not None and each.ranges.shape for each in found] == [(2, 8), (2, 8), (2, 4), (2, 4), (2, 8)]
    assert len({each.ranges.tobytes() for each in found if each.ranges is not None}) == 4


def test_prose_that_fails_is_asked_again() -> None:
    one = outputs()
    with pytest.raises(AssertionError, match="8 bits only"):
        one.of(random_rows(1, 8), Embed(id=1, precision="int8"), unneeded)
    assert one.of(random_rows(1, 8), Embed(id=1, precision="int8"), lambda: prose_of(stub_card())).ranges is not None


def test_last_bits_of_another_processor_change_no_range() -> None:
    rows = unit(random_rows(64, 1024))
    noise = np.random.default_rng(8).uniform(-1e-7, 1e-7, rows.shape).astype(np.float32)
    changed = (ranges_of(rows) != ranges_of(unit(rows + noise))).mean()
    assert changed < 0.001
    assert np.abs(ranges_of(rows) - ranges_of(unit(rows + noise))).max() <= 2.0**-8


def test_ranges_hold_their_vectors_and_little_more() -> None:
    rows = unit(random_rows(64, 384))
    low, high = ranges_of(rows)
    assert (low <= rows.min(axis=0)).all()
    assert (high >= rows.max(axis=0)).all()
    assert np.median(high - low) < 9 * rows.std()
    assert np.unique(ranges_of(rows)).size < 100


def test_dimension_that_never_changes_has_a_range() -> None:
    rows = np.tile(np.array([[0.25, -0.3]], dtype=np.float32), (4, 1))
    precision, ranges = PRECISIONS["uint8"], ranges_of(rows)
    np.testing.assert_allclose(read(written(rows, precision, ranges), precision, 2, ranges), rows, atol=0.2)


def test_value_beyond_its_range_is_clipped() -> None:
    ranges = np.array([[-1], [1]], dtype=np.float32)
    beyond = np.array([[-5], [5], [0]], dtype=np.float32)
    assert written(beyond, PRECISIONS["int8"], ranges).tolist() == [[-128], [127], [-1]]
    assert written(beyond, PRECISIONS["uint8"], ranges).tolist() == [[0], [255], [127]]


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_numbers_of_8_bits_are_read_back_within_half_a_step(precision: str) -> None:
    rows = unit(random_rows(64, 24))
    ranges = ranges_of(rows)
    back = read(written(rows, PRECISIONS[precision], ranges), PRECISIONS[precision], 24, ranges)
    assert (np.abs(back - rows) <= (ranges[1] - ranges[0]) / 255 / 2 + 1e-6).all()


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_are_read_back_as_signs(precision: str) -> None:
    rows = random_rows(5, 13)
    numbers = written(rows, PRECISIONS[precision], None)
    assert numbers.shape == (5, 2)
    np.testing.assert_array_equal(read(numbers, PRECISIONS[precision], 13, None), np.where(rows > 0, 1, -1))


def test_value_that_float16_cannot_hold_is_refused() -> None:
    card, rows = stub_card(normalize=False), random_rows(2, 8) * 1e6
    with pytest.raises(InvalidInput, match="65504"):
        outputs(card).of(rows, Embed(id=1, precision="float16", normalize=False), unneeded)
