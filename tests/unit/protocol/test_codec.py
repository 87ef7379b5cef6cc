"""The clients' protocol: what a frame may be, and what each mistake in one is called."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
import pytest

from embeddaemon.errors import (
    CODES,
    EmbedDaemonError,
    InputTooLarge,
    InvalidInput,
    NoHeadroom,
    ProtocolError,
    RequestError,
    UnsupportedVersion,
    error_for,
)
from embeddaemon.protocol import bodies, codec, error_codec
from embeddaemon.protocol.fields import pack
from embeddaemon.protocol.limits import MAX_HEADER_BYTES, VERSION, Limits
from embeddaemon.protocol.messages import (
    Answer,
    Cancel,
    Document,
    Embed,
    ErrorAnswer,
    Hello,
    Lane,
    Load,
    Models,
    Request,
    Status,
    Texts,
    Timings,
    TokenIds,
    Tokenize,
    Tokens,
    Unload,
    Vectors,
    Waiting,
)

LIMITS = Limits(max_texts=4, max_text_bytes=10, max_body_bytes=64, max_ids=3)


def header(**fields: Any) -> bytes:
    packed: bytes = msgpack.packb({"v": VERSION, "id": 7, "op": "embed"} | fields)
    return packed


def body(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


@pytest.mark.parametrize(
    "request_",
    [
        Hello(id=1),
        Embed(id=1),
        Embed(
            id=2**63 - 1,
            deadline_ms=-5,
            model="m",
            lane=Lane.BULK,
            task="t",
            prompt="p",
            dimensions=8,
            normalize=False,
            truncate=False,
            precision="int8",
            lenient=True,
        ),
        Tokenize(id=3, deadline_ms=10, model="m", lane=Lane.BULK, task="t", prompt="p", truncate=False, lenient=True),
        Models(id=4),
        Status(id=5, deadline_ms=1),
        Load(id=6, model="m"),
        Unload(id=7, model="m"),
        Cancel(id=8, ids=(1, 2**63 - 1)),
    ],
)
def test_request_comes_back_as_it_was(request_: Request) -> None:
    assert codec.decode_request(codec.encode_request(request_)) == request_


@pytest.mark.parametrize(
    "frame",
    [
        header(op="dance"),
        header(op=7),
        header(op=None),
        header(id=0),
        header(id="one"),
        header(id=True),
        header(id=-1),
        header(lane="fast"),
        header(lane=1),
        header(dimensions=0),
        header(dimensions="8"),
        header(normalize=1),
        header(deadline_ms=1.5),
        header(deadline_ms=2**62),
        header(colour="red"),
        header(model=b"m"),
        header(op="load"),
        header(op="cancel"),
        header(op="cancel", ids=[1, "two"]),
        header(op="cancel", ids=list(range(5000))),
        b"",
        b"\xc1",
        body([1, 2]),
        body({1: 2}),
        body({"v": VERSION}),
        header() + b"x",
        b"\x81" * 5000,
        body({"v": VERSION, "id": 1, "op": "hello", "model": msgpack.ExtType(5, b"x")}),
        b"x" * (MAX_HEADER_BYTES + 1),
        header(**{f"k{number}": number for number in range(100)}),
    ],
)
def test_broken_header_is_a_protocol_error(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        codec.decode_request(frame)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_version_is_its_own_error(version: object) -> None:
    with pytest.raises(UnsupportedVersion) as caught:
        codec.decode_request(header(v=version))
    assert caught.value.details["spoken"] == VERSION


def test_id_is_found_in_a_header_that_is_broken_otherwise() -> None:
    assert codec.request_id(header(op="dance")) == 7
    assert codec.request_id(header(id="one")) == 0
    assert codec.request_id(b"\xc1") == 0


def test_bodies_come_back_as_they_were() -> None:
    assert bodies.decode_body(bodies.encode_texts(["a", "ä\0"], LIMITS), LIMITS) == Texts(("a", "ä\0"))
    assert bodies.decode_body(bodies.encode_ids([[1, 2], []], LIMITS), LIMITS) == TokenIds(((1, 2), ()))


@pytest.mark.parametrize(
    ("value", "error", "index"),
    [
        ({"texts": []}, InvalidInput, None),
        ({"texts": "abc"}, InvalidInput, None),
        ({"texts": None}, InvalidInput, None),
        ({"texts": ["a", 7]}, InvalidInput, 1),
        ({"texts": ["a", b"b"]}, InvalidInput, 1),
        ({"texts": ["a", ["b"]]}, InvalidInput, 1),
        ({"texts": ["a"] * 5}, InputTooLarge, None),
        ({"texts": ["a", "b" * 11]}, InputTooLarge, 1),
        ({"texts": ["a" * 10] * 4 + ["a" * 60]}, InputTooLarge, None),
        ({"ids": []}, InvalidInput, None),
        ({"ids": [7]}, InvalidInput, None),
        ({"ids": [[1], [-1]]}, InvalidInput, 1),
        ({"ids": [[1], [True]]}, InvalidInput, 1),
        ({"ids": [[1], [2**31]]}, InvalidInput, 1),
        ({"texts": ["a"], "ids": [[1]]}, ProtocolError, None),
        ({}, ProtocolError, None),
        ({"words": ["a"]}, ProtocolError, None),
        ([["a"]], ProtocolError, None),
    ],
)
def test_bad_body_has_its_own_error(value: object, error: type[EmbedDaemonError], index: int | None) -> None:
    with pytest.raises(error) as caught:
        bodies.decode_body(body(value), LIMITS)
    assert caught.value.details.get("index") == index


def test_surrogate_that_was_smuggled_in_is_refused() -> None:
    smuggled = msgpack.packb({"texts": ["\ud800"]}, unicode_errors="surrogatepass")
    with pytest.raises(ProtocolError):
        bodies.decode_body(smuggled, LIMITS)


@pytest.mark.parametrize(
    "answer",
    [
        Vectors(id=1, model="m", count=2, dim=3, dtype="float32", tokens=9, truncated=(1,), timings=Timings(1, 2, 3)),
        Vectors(id=1, model="m", count=2, dim=3, dtype="int8", tokens=9, weights="0f"),
        Tokens(id=1, model="m", count=2, tokens=9),
        Document(id=1),
        ErrorAnswer(
            id=0, code="busy", message="full", retryable=True, retry_after_ms=5, cause=("a",), details={"n": 1}
        ),
    ],
)
def test_answer_comes_back_as_it_was(answer: Answer) -> None:
    assert codec.decode_answer(codec.encode_answer(answer)) == answer


@pytest.mark.parametrize("waiting", [Waiting(3), Waiting(3, "loading mini")])
def test_sign_of_life_comes_back_as_it_was(waiting: Waiting) -> None:
    assert codec.decode_answer(codec.encode_answer(waiting)) == waiting


def test_field_that_a_newer_daemon_adds_is_passed_over() -> None:
    values: Mapping[str, Any] = msgpack.unpackb(codec.encode_answer(Document(id=3)))
    assert codec.decode_answer(body({**values, "colour": "red"})) == Document(id=3)


def test_error_travels_with_everything_it_knows() -> None:
    cause = OSError("disk on fire")
    error = NoHeadroom("no room", details={"needed_bytes": 5}, retry_after_ms=7)
    error.__cause__ = cause
    answer = codec.decode_answer(codec.encode_answer(error_codec.error_answer(9, error)))
    assert isinstance(answer, ErrorAnswer)
    raised = error_codec.raised(answer)
    assert isinstance(raised, NoHeadroom)
    assert (raised.message, raised.details, raised.retry_after_ms) == ("no room", {"needed_bytes": 5}, 7)
    assert raised.cause == ("OSError: disk on fire",)


@pytest.mark.parametrize("code", CODES)
def test_every_code_becomes_its_own_error(code: str) -> None:
    error = error_for(code, "message")
    assert type(error).code == code
    assert error_codec.error_from_map(error_codec.error_to_map(error)).message == "message"


def test_code_of_a_newer_daemon_is_still_an_error_that_names_it() -> None:
    error = error_codec.raised(ErrorAnswer(id=1, code="moon_phase", message="wait"))
    assert type(error) is RequestError
    assert "moon_phase" in str(error)


@pytest.mark.parametrize("before", [{"text": "\ud800"}, {"text": "x" * 100_000}, {"text": "x" * 60_000}])
def test_what_was_packed_before_leaves_nothing_in_a_frame(before: Mapping[str, str]) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        pack(before)
    assert msgpack.unpackb(pack({"a": 1})) == {"a": 1}


def test_threads_that_pack_at_once_get_their_own_frames() -> None:
    def packed(number: int) -> bool:
        value = {"number": number, "text": "x" * (number % 7 * 1000)}
        return bool(msgpack.unpackb(pack(value)) == value)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(packed, range(400)))
