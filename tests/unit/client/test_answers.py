"""Answers are checked before they become arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embeddaemon.client._answers import Alike, Assembler, document_of, ids_of, vectors_of
from embeddaemon.client._window import Answered, Piece, Span
from embeddaemon.client.results import model_list, server_info
from embeddaemon.errors import ModelChanged, ProtocolError
from embeddaemon.protocol import codec
from embeddaemon.protocol.messages import Answer, Document, Embed, Timings, Tokens, Vectors
from embeddaemon.protocol.precisions import PRECISIONS


def answered(answer: Answer, *frames: bytes, count: int = 2, offset: int = 0, at: float = 3.0) -> Answered:
    precision = answer.dtype if isinstance(answer, Vectors) and answer.dtype in PRECISIONS else "float32"
    piece = Piece(0, offset, count, Embed(id=0, precision=precision), b"")
    return Answered(piece, answer, [memoryview(frame) for frame in frames], 1.0, at)


def vectors(
    count: int = 2, dim: int = 3, *, dtype: str = "float32", truncated: tuple[int, ...] = (), weights: str = ""
) -> Vectors:
    timings = Timings(queue_us=5, tokenize_us=1, compute_us=2)
    return Vectors(
        id=1,
        model="m",
        count=count,
        dim=dim,
        dtype=dtype,
        tokens=7,
        truncated=truncated,
        timings=timings,
        weights=weights,
    )


def frame(count: int = 2, dim: int = 3) -> bytes:
    return np.arange(count * dim, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("answer", "frames"),
    [
        (vectors(), []),
        (vectors(), [frame(), frame()]),
        (vectors(), [frame(2, 2)]),
        (vectors(), [b"x" * 23]),
        (vectors(3), [frame(3)]),
        (vectors(dtype="float64"), [frame()]),
        (Document(id=1), [frame()]),
    ],
    ids=["no frame", "two frames", "short frame", "odd frame", "other count", "other dtype", "other answer"],
)
def test_vectors_that_are_not_what_was_asked_are_refused(answer: Answer, frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        vectors_of(answered(answer, *frames))


def test_vectors_are_writable_and_aligned() -> None:
    unaligned = memoryview(b"x" + frame())[1:]
    one = Answered(Piece(0, 0, 2, Embed(id=0), b""), vectors(), [unaligned], 0, 0)
    array = vectors_of(one).numbers
    array += 1
    assert array.flags.aligned
    assert array.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_large_vectors_of_one_piece_are_not_copied() -> None:
    buffer = bytearray(frame(200, 384))
    one = Answered(Piece(0, 0, 200, Embed(id=0), b""), vectors(200, 384), [memoryview(buffer)], 0, 0)
    assembler = Assembler(200)
    assembler.take(one)
    result = assembler.embeddings(is_single=False).vectors
    assert np.shares_memory(result, np.frombuffer(buffer, "<f4"))


def test_pieces_are_summed_up_with_indices_of_the_call() -> None:
    assembler = Assembler(4)
    assembler.take(answered(vectors(truncated=(1,)), frame()))
    assembler.take(answered(vectors(truncated=(0,)), frame(), offset=2))
    result = assembler.embeddings(is_single=False)
    assert result.vectors.shape == (4, 3)
    assert (result.tokens, result.truncated, result.model, result.seconds) == (14, (1, 2), "m", 2.0)
    assert result.timings == Timings(queue_us=5, tokenize_us=2, compute_us=4)


@pytest.mark.parametrize(("old", "new"), [((3, "a"), (3, "b")), ((3, ""), (2, ""))], ids=["weights", "width"])
def test_texts_answered_of_older_weights_are_to_be_asked_again(old: tuple[int, str], new: tuple[int, str]) -> None:
    """The old workers' last answer came after the new ones' first."""
    assembler = Assembler(6)
    for offset, (dim, weights), at in ((0, old, 1.0), (2, new, 2.0), (4, old, 3.0)):
        header = vectors(dim=dim, weights=weights, truncated=(1,))
        assembler.take(answered(header, frame(dim=dim), offset=offset, at=at))
    assert assembler.outdated() == [Span(0, 2), Span(4, 2)]
    dim, weights = new
    again = vectors(dim=dim, weights=weights)
    for offset in (0, 4):
        assembler.take(answered(again, np.full((2, dim), offset, "<f4").tobytes(), offset=offset, at=4.0))
    assert assembler.outdated() == []
    result = assembler.embeddings(is_single=False)
    assert result.vectors[[0, 4]].tolist() == [[0] * dim, [4] * dim]
    assert result.vectors[2:4].tolist() == np.arange(2 * dim).reshape(2, dim).tolist()
    assert (result.weights, result.dimensions, result.tokens, result.truncated) == (weights, dim, 21, (3,))
    assert assembler.done == 6


@pytest.mark.parametrize("third", ["a", "c"], ids=["back again", "yet another"])
def test_model_that_changes_again_while_texts_are_asked_again_is_told(third: str) -> None:
    assembler = Assembler(4)
    for offset, weights in ((0, "a"), (2, "b")):
        assembler.take(answered(vectors(weights=weights), frame(), offset=offset, at=1.0 + offset))
    assert assembler.outdated() == [Span(0, 2)]
    assembler.take(answered(vectors(weights=third), frame(), offset=0, at=5.0))
    with pytest.raises(ModelChanged, match="'m' changed more than once") as raised:
        assembler.embeddings(is_single=False)
    assert raised.value.retryable


@pytest.mark.parametrize("other", [vectors(weights="b"), vectors(dim=2, weights="a")], ids=["weights", "width"])
def test_stream_ends_where_the_weights_change_and_says_what_it_gave(other: Vectors) -> None:
    alike = Alike()
    for offset in (0, 2):
        alike.take(answered(vectors(weights="a"), frame(), offset=offset))
    with pytest.raises(ModelChanged, match="first 4 texts") as raised:
        alike.take(answered(other, frame(dim=other.dim), offset=4))
    assert raised.value.details == {"model": "m", "given": 4}


def test_another_precision_than_was_asked_for_is_refused() -> None:
    one = Answered(Piece(0, 0, 2, Embed(id=0, precision="float16"), b""), vectors(), [memoryview(frame())], 0, 0)
    with pytest.raises(ProtocolError, match="float16 were asked for, float32 was answered"):
        vectors_of(one)


RANGES = np.array([[-1, -1, -1], [1, 1, 1]], "<f4")
OTHER_RANGES = np.array([[-1, -1, -1], [1, 1, 1.01]], "<f4")


@pytest.mark.parametrize(
    ("dtype", "frames", "expected"),
    [
        ("float16", [np.ones((2, 3), "<f2").tobytes()], np.ones((2, 3), np.float16)),
        ("int8", [b"\x80\0\x7f" * 2, RANGES.tobytes()], np.array([[-128, 0, 127]] * 2, np.int8)),
        ("uint8", [b"\0\x80\xff" * 2, RANGES.tobytes()], np.array([[0, 128, 255]] * 2, np.uint8)),
        ("binary", [b"\x80\x7f"], np.array([[-128], [127]], np.int8)),
        ("ubinary", [b"\0\xe0"], np.array([[0], [224]], np.uint8)),
    ],
)
def test_numbers_of_every_precision_become_arrays(dtype: str, frames: list[bytes], expected: NDArray[Any]) -> None:
    assembler = Assembler(2)
    assembler.take(answered(vectors(dtype=dtype), *frames))
    result = assembler.embeddings(is_single=False)
    assert str(result.vectors.dtype) == str(expected.dtype)
    np.testing.assert_array_equal(result.vectors, expected)
    assert (result.precision, result.dimensions) == (dtype, 3)
    assert (result.ranges is not None) == (dtype in {"int8", "uint8"})
    restored = result.as_float32()
    assert (restored.shape, str(restored.dtype)) == ((2, 3), "float32")
    assert np.abs(restored).max() <= 1.01


def test_single_text_is_restored_as_one_vector() -> None:
    assembler = Assembler(1)
    assembler.take(answered(vectors(1, dtype="int8"), b"\x80\0\x7f", RANGES.tobytes(), count=1))
    result = assembler.embeddings(is_single=True)
    np.testing.assert_allclose(result.as_float32(), [-1, 0, 1], atol=2.1 / 255)
    assembler = Assembler(1)
    assembler.take(answered(vectors(1, dtype="binary"), b"\x20", count=1))
    assert assembler.embeddings(is_single=True).as_float32().tolist() == [1, -1, 1]


@pytest.mark.parametrize(
    ("dtype", "frames"),
    [
        ("int8", [b"x" * 6]),
        ("int8", [b"x" * 6, b"x" * 20]),
        ("uint8", [b"x" * 5, RANGES.tobytes()]),
        ("binary", [b"x" * 6]),
        ("binary", [b"xx", RANGES.tobytes()]),
        ("float16", [frame()]),
    ],
)
def test_numbers_that_do_not_fit_their_header_are_refused(dtype: str, frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match="bytes"):
        vectors_of(answered(vectors(dtype=dtype), *frames))


def test_pieces_with_other_ranges_are_made_alike() -> None:
    """Workers on different hardware may differ in a last bit, which can move a range by one step of its grid."""
    assembler = Assembler(4)
    assembler.take(answered(vectors(dtype="uint8"), bytes([0, 128, 255] * 2), RANGES.tobytes()))
    assembler.take(answered(vectors(dtype="uint8"), bytes([0, 128, 100] * 2), OTHER_RANGES.tobytes(), offset=2))
    result = assembler.embeddings(is_single=False)
    assert result.ranges is not None
    np.testing.assert_array_equal(result.ranges, RANGES)
    assert result.vectors.tolist() == [[0, 128, 255]] * 2 + [[0, 128, 101]] * 2
    assert np.abs(result.as_float32()[2, 2] - (-1 + 100.5 * 2.01 / 255)) < 2 / 255


def test_token_ids_are_split_by_their_lengths() -> None:
    answer = Tokens(id=1, model="m", count=3, tokens=4)
    ids, lengths = np.array([1, 2, 3, 4], "<i4").tobytes(), np.array([1, 0, 3], "<i4").tobytes()
    assert [one.tolist() for one in ids_of(answered(answer, ids, lengths, count=3))] == [[1], [], [2, 3, 4]]


@pytest.mark.parametrize("lengths", [[1, 1], [5, -1], [2, 3]])
def test_token_lengths_that_do_not_add_up_are_refused(lengths: list[int]) -> None:
    answer = Tokens(id=1, model="m", count=2, tokens=4)
    ids = np.array([1, 2, 3, 4], "<i4").tobytes()
    with pytest.raises(ProtocolError):
        ids_of(answered(answer, ids, np.array(lengths, "<i4").tobytes()))


def test_document_needs_exactly_one_frame() -> None:
    with pytest.raises(ProtocolError):
        document_of(answered(Document(id=1)))
    assert document_of(answered(Document(id=1), codec.encode_document({"a": 1}))) == {"a": 1}


def test_model_that_was_never_fetched_has_unknown_dimension() -> None:
    model = {"name": "far", "state": "unknown", "dim": None, "tasks": None}
    listed = model_list({"default_model": None, "models": [model]})
    assert listed.models[0].dimension is None
    assert listed.models[0].tasks == ()


@pytest.mark.parametrize("document", [{}, {"models": [7]}, {"models": [{"name": 7}]}, {"models": "no"}])
def test_list_of_models_that_is_none_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        model_list(document)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"v": "1"},
        {"v": 1, "version": "1", "instance": 7},
        {"v": 1, "version": "1", "instance": "a", "limits": {"max_texts": 0}},
    ],
)
def test_hello_that_is_none_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        server_info(document)
