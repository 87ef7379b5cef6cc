"""Whatever the bytes of a weights file or a JSON file are: a checked result, or CorruptModel."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from embeddaemon.errors import CorruptModel
from embeddaemon.models.weights import header_length, parse_header

_SIZES = st.integers(-3, 70) | st.integers() | st.booleans() | st.floats() | st.none() | st.text(max_size=3)
_SHAPES = st.lists(_SIZES, max_size=4) | _SIZES
_DTYPES = st.sampled_from(["F32", "BF16", "I64", "U8", "BOOL", "F4"]) | st.text(max_size=4)
_ENTRIES = st.fixed_dictionaries(
    {"dtype": _DTYPES, "shape": _SHAPES, "data_offsets": _SHAPES}, optional={"more": st.none()}
)
_HEADERS = st.dictionaries(st.text(max_size=5) | st.just("__metadata__"), _ENTRIES | _SIZES | _SHAPES, max_size=4)


def _check(raw: bytes, file_bytes: int) -> None:
    try:
        header = parse_header(raw, 8 + len(raw), file_bytes, "/x")
    except CorruptModel:
        return
    position = 8 + len(raw)
    for entry in header.tensors:
        assert entry.start == position <= entry.end
        position = entry.end
    assert position == file_bytes


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_arbitrary_bytes_are_corrupt_or_right(raw: bytes, file_bytes: int) -> None:
    _check(raw, file_bytes)


@settings(max_examples=300, deadline=None)
@given(_HEADERS, st.integers(0, 300))
def test_arbitrary_headers_are_corrupt_or_right(header: dict[str, object], file_bytes: int) -> None:
    raw = json.dumps(header).encode()
    _check(raw, 8 + len(raw) + file_bytes)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=5), st.data())
def test_right_headers_are_accepted(sizes: list[int], data: st.DataObject) -> None:
    position, header = 0, {}
    for number, size in enumerate(sizes):
        header[str(number)] = {"dtype": "I16", "shape": [size, 2], "data_offsets": [position, position + 4 * size]}
        position += 4 * size
    order = data.draw(st.permutations(list(header)))
    raw = json.dumps({name: header[name] for name in order}).encode()
    assert len(parse_header(raw, 8 + len(raw), 8 + len(raw) + position, "/x").tensors) == len(sizes)


@given(st.binary(max_size=12), st.integers(0, 2**40))
def test_length_is_within_the_file(head: bytes, file_bytes: int) -> None:
    try:
        length = header_length(head[:8], file_bytes, "/x")
    except CorruptModel:
        return
    assert 0 <= length <= file_bytes - 8
