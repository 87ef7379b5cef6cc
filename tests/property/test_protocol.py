"""No bytes make the protocol raise anything but our own errors, and what is encoded comes back."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddaemon.errors import EmbedDaemonError
from embeddaemon.protocol import bodies, codec
from embeddaemon.protocol.limits import VERSION, Limits
from embeddaemon.protocol.messages import Embed, ErrorAnswer, Lane, Texts, Timings, TokenIds, Tokenize, Vectors

LIMITS = Limits()
DECODERS = [
    codec.decode_request,
    codec.decode_answer,
    codec.decode_document,
    lambda frame: bodies.decode_body(frame, LIMITS),
]

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats()
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8) | st.binary(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
text = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.none() | text
ids = st.integers(1, 2**63 - 1)
counts = st.integers(0, 2**40)


@pytest.mark.parametrize("decode", DECODERS)
@given(frame=st.binary(max_size=200))
def test_any_bytes_are_refused_with_our_error(decode: Any, frame: bytes) -> None:
    survives(decode, frame)


FIELDS = ["v", "id", "op", "model", "deadline_ms", "lane", "task", "prompt", "dimensions", "normalize", "precision"]
FIELDS += ["lenient"]
FIELDS += ["ok", "error", "count", "dim", "dtype", "tokens", "truncated", "timings", "texts", "ids", "code", "message"]
OPS = ["embed", "tokenize", "load", "hello"]


@pytest.mark.parametrize("decode", DECODERS)
@given(fields=st.dictionaries(st.sampled_from(FIELDS), values, max_size=12), op=st.sampled_from(OPS))
def test_any_map_is_refused_with_our_error(decode: Any, fields: dict[str, Any], op: str) -> None:
    survives(decode, msgpack.packb(fields))
    survives(decode, msgpack.packb({"v": VERSION, "id": 1, "op": op, "ok": True} | fields))


@given(value=values)
def test_any_body_is_refused_with_our_error(value: Any) -> None:
    for key in ("texts", "ids"):
        survives(DECODERS[3], msgpack.packb({key: value}))


@given(frame=st.binary(max_size=200), cut=st.integers(0, 200))
def test_id_of_anything_is_a_number(frame: bytes, cut: int) -> None:
    assert codec.request_id(frame) >= 0
    assert codec.request_id(codec.encode_request(Embed(id=5))[:cut]) in {0, 5}


def survives(decode: Any, frame: bytes) -> None:
    try:
        decode(frame)
    except EmbedDaemonError as error:
        assert str(error)  # noqa: PT017 - not raising is as good


@given(
    st.builds(
        Embed,
        id=ids,
        deadline_ms=st.none() | st.integers(-1000, 10**8),
        model=names,
        lane=st.sampled_from(Lane),
        task=names,
        prompt=names,
        dimensions=st.none() | st.integers(1, 1 << 20),
        normalize=st.booleans(),
        truncate=st.booleans(),
        precision=text,
        lenient=st.booleans(),
    )
    | st.builds(Tokenize, id=ids, model=names, lane=st.sampled_from(Lane), task=names, prompt=names)
)
def test_requests_come_back(request: Embed | Tokenize) -> None:
    assert codec.decode_request(codec.encode_request(request)) == request


@given(st.lists(text, min_size=1, max_size=20))
def test_texts_come_back(texts: list[str]) -> None:
    assert bodies.decode_body(bodies.encode_texts(texts, LIMITS), LIMITS) == Texts(tuple(texts))


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=8), min_size=1, max_size=8))
def test_token_ids_come_back(texts: list[list[int]]) -> None:
    assert bodies.decode_body(bodies.encode_ids(texts, LIMITS), LIMITS) == TokenIds(tuple(map(tuple, texts)))


@given(
    st.builds(
        Vectors,
        id=ids,
        model=text,
        count=counts,
        dim=counts,
        dtype=text,
        tokens=counts,
        truncated=st.lists(st.integers(0, 2**31), max_size=5).map(tuple),
        timings=st.builds(Timings, counts, counts, counts),
    )
    | st.builds(
        ErrorAnswer,
        id=st.integers(0, 2**63 - 1),
        code=text,
        message=text,
        retryable=st.booleans(),
        retry_after_ms=st.none() | counts,
        cause=st.lists(text, max_size=3).map(tuple),
        details=st.dictionaries(text, text | counts | st.none(), max_size=3),
    )
)
def test_answers_come_back(answer: Vectors | ErrorAnswer) -> None:
    assert codec.decode_answer(codec.encode_answer(answer)) == answer
