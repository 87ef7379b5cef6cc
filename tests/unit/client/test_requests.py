"""What a caller may give, and what is refused before anything is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from embeddaemon.client import _requests as requests
from embeddaemon.client._window import PIECE_CHARACTERS, PIECE_TEXTS
from embeddaemon.errors import EmbedDaemonError, InputTooLarge, InvalidInput
from embeddaemon.protocol import bodies
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import Embed, Lane, Texts, TokenIds

OPTIONS: dict[str, Any] = {
    "model": None,
    "task": None,
    "prompt": None,
    "dimensions": None,
    "normalize": True,
    "truncate": True,
    "precision": "float32",
    "lane": None,
}


@pytest.mark.parametrize(
    "texts",
    [
        ["a", "b"],
        ("a", "b"),
        iter(["a", "b"]),
        np.array(["a", "b"]),
        np.array(["a", "b"], dtype=object),
        {"a": 1, "b": 2}.keys(),
    ],
    ids=["list", "tuple", "iterator", "array", "object array", "keys"],
)
def test_anything_that_holds_strings_in_order_is_a_list_of_texts(texts: object) -> None:
    assert requests.as_texts(texts) == ["a", "b"]


@pytest.mark.parametrize(
    "texts",
    [b"bytes", bytearray(b"x"), 7, None, {"a": 1}, {"a", "b"}, {"a": 1}.items(), 1.5, object(), np.array("a text")],
    ids=["bytes", "bytearray", "int", "None", "dict", "set", "items", "float", "object", "array of no dimension"],
)
def test_what_is_no_list_of_strings_is_refused(texts: object) -> None:
    with pytest.raises(InvalidInput, match="must be a string or a list of strings"):
        requests.as_texts(texts)


@pytest.mark.parametrize("bad", [b"bytes", 7, None, ["nested"], {"a": 1}, 1.5])
def test_element_that_is_no_string_is_refused_with_its_index(bad: object) -> None:
    with pytest.raises(InvalidInput, match="text 2 is") as caught:
        requests.as_texts(["a", "b", bad])
    assert caught.value.details["index"] == 2


def test_texts_that_are_waited_for_are_refused_with_the_method_that_takes_them() -> None:
    async def source() -> AsyncIterator[str]:
        yield "a"

    for take in (requests.as_texts, requests.as_stream):
        with pytest.raises(InvalidInput, match=r"not async_generator: AsyncClient\.embed_stream takes"):
            take(source())


def test_two_dimensional_array_is_refused() -> None:
    with pytest.raises(InvalidInput, match="text 0 is list"):
        requests.as_texts(np.array([["a"], ["b"]]))


def test_lone_surrogate_is_refused_with_its_place_in_the_call() -> None:
    texts = ["a"] * 100 + ["bad \ud800"]
    pieces = requests.text_pieces(Embed(id=0), texts)(Limits())
    with pytest.raises(InvalidInput, match="text 100 has a lone surrogate at character 4") as caught:
        list(pieces)
    assert caught.value.details["index"] == 100


def test_text_over_the_limit_is_refused_with_its_place_in_the_call() -> None:
    texts = ["a"] * 70 + ["b" * 5000]
    with pytest.raises(InputTooLarge, match="text 70 has more than 1000 bytes") as caught:
        list(requests.text_pieces(Embed(id=0), texts)(Limits(max_text_bytes=1000)))
    assert caught.value.details["index"] == 70


@pytest.mark.parametrize("name", ["model", "task", "prompt"])
@pytest.mark.parametrize("value", [7, b"x", ["x"], "\ud800"], ids=["int", "bytes", "list", "surrogate"])
def test_option_that_is_no_text_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidInput, match=name):
        requests.embed_request(**(OPTIONS | {name: value}))


def test_prompt_that_does_not_fit_a_header_is_refused() -> None:
    with pytest.raises(InputTooLarge, match="prompt"):
        requests.embed_request(**(OPTIONS | {"prompt": "x" * 70_000}))


@pytest.mark.parametrize("dimensions", [0, -1, 1.5, "8", True])
def test_dimensions_that_are_no_positive_integer_are_refused(dimensions: object) -> None:
    with pytest.raises(InvalidInput, match="dimensions"):
        requests.embed_request(**(OPTIONS | {"dimensions": dimensions}))


def test_numpy_integer_is_an_integer() -> None:
    assert requests.embed_request(**(OPTIONS | {"dimensions": np.int64(8)})).dimensions == 8


def test_lane_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInput, match="interactive or bulk"):
        requests.embed_request(**(OPTIONS | {"lane": "fast"}))


@pytest.mark.parametrize("timeout", [5, 5.0, np.int64(5), np.float32(5), np.float64(5)])
def test_time_out_is_any_number(timeout: object) -> None:
    seconds = requests.wait_seconds(timeout)
    assert (seconds, type(seconds)) == (5.0, float)


def test_time_out_that_is_none_is_refused_with_what_to_give_instead() -> None:
    with pytest.raises(InvalidInput, match=r'not None: give float\("inf"\)'):
        requests.wait_seconds(None)


@pytest.mark.parametrize("timeout", ["5", None, True, np.True_, float("nan"), np.float32("nan")])
def test_time_out_that_is_no_number_is_refused(timeout: object) -> None:
    with pytest.raises(InvalidInput, match="timeout"):
        requests.wait_seconds(timeout)


@pytest.mark.parametrize(
    ("sizes", "lane"),
    [
        ([10], Lane.INTERACTIVE),
        ([10] * PIECE_TEXTS, Lane.INTERACTIVE),
        ([10] * (PIECE_TEXTS + 1), Lane.BULK),
        ([PIECE_CHARACTERS + 1], Lane.BULK),
    ],
    ids=["one", "a piece", "two pieces", "one large"],
)
def test_small_call_of_one_piece_goes_first(sizes: list[int], lane: Lane) -> None:
    request = requests.embed_request(**OPTIONS)
    assert requests.in_lane_for(request, sizes, largest=PIECE_CHARACTERS).lane is lane


@pytest.mark.parametrize(
    "ids", ["text", b"x", 7, None, [1, 2], [["a"]], [[1.5]], [[-1]], [[2**31]], [None], np.array(1)]
)
def test_ids_that_are_none_are_refused(ids: object) -> None:
    with pytest.raises(InvalidInput):
        requests.as_ids(ids)


def test_ids_are_cut_into_pieces_in_order() -> None:
    ids = requests.as_ids([np.arange(1500, dtype=np.int64)] * 7)
    pieces = list(requests.id_pieces(Embed(id=0), ids)(Limits()))
    assert [(piece.offset, piece.count) for piece in pieces] == [(0, 2), (2, 2), (4, 2), (6, 1)]
    body = bodies.decode_body(pieces[0].body, Limits())
    assert isinstance(body, TokenIds)
    assert body.ids[0][:3] == (0, 1, 2)


def test_text_with_too_many_ids_is_refused_with_its_index() -> None:
    with pytest.raises(InputTooLarge, match="text 1 has 11 ids") as caught:
        list(requests.id_pieces(Embed(id=0), [[1], [1] * 11])(Limits(max_ids=10)))
    assert caught.value.details["index"] == 1


def test_stream_reads_no_more_than_it_must() -> None:
    read = []

    def source() -> Iterator[str]:
        for number in range(10_000):
            read.append(number)
            yield str(number)

    pieces = requests.text_pieces(Embed(id=0), source())(Limits())
    body = bodies.decode_body(next(pieces).body, Limits())
    assert isinstance(body, Texts)
    assert len(body.texts) == PIECE_TEXTS
    assert len(read) == PIECE_TEXTS


def test_stream_refuses_what_is_no_stream_of_strings() -> None:
    for texts in ("one string", b"bytes", 7, None, np.array("a text")):
        with pytest.raises(EmbedDaemonError):
            requests.as_stream(texts)
    with pytest.raises(InvalidInput, match="text 1 is int"):
        list(requests.checked_texts(["a", 1]))
