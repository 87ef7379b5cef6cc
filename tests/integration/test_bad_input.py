"""Bad input on the wire: each has its own error, nothing dies of it, and no other request notices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest

from embeddaemon.protocol import bodies
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import Embed, ErrorAnswer, Tokenize, Tokens, Vectors
from tests.support.daemon import RunningDaemon, running_daemon, stub_folder
from tests.support.raw_client import RawClient
from tests.support.sockets import short_folder

LIMITS = {"max_texts": 16, "max_text_bytes": 2000, "max_body_bytes": 8000, "max_ids": 200}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    folder = stub_folder(tmp_path_factory.mktemp("model"))
    models = [{"name": "stub", "source": f"path:{folder}", "dimensions": [4]}]
    with short_folder() as sockets, running_daemon(sockets, models=models, limits=LIMITS) as running:
        yield running


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[RawClient]:
    """A client whose neighbour has a request under way; both are served as if nothing had been."""
    with daemon.client() as neighbour, daemon.client() as client:
        workers = [worker["pid"] for worker in neighbour.status()["workers"]]
        asked = neighbour.ask(["stall 0.05", "a neighbour's text"])
        yield client
        answer, _ = neighbour.receive()
        assert isinstance(answer, Vectors)
        assert answer.id == asked
        assert client.embed(["still served"]).shape == (1, 8)
        assert [worker["pid"] for worker in neighbour.status()["workers"]] == workers or not workers


def header(**fields: Any) -> bytes:
    packed: bytes = msgpack.packb({"v": 1, "id": 7, "op": "embed", **fields})
    return packed


def body(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


GOOD = body({"texts": ["a text"]})

WIRE: dict[str, tuple[bytes, bytes, str, dict[str, object]]] = {
    "texts are no list": (header(), body({"texts": "one"}), "invalid_input", {}),
    "a text is no string": (header(), body({"texts": ["one", 2]}), "invalid_input", {"index": 1}),
    "a text is bytes": (header(), body({"texts": [b"one"]}), "invalid_input", {"index": 0}),
    "an empty text": (header(), body({"texts": ["one", ""]}), "invalid_input", {"index": 1}),
    "no texts": (header(), body({"texts": []}), "invalid_input", {}),
    "too many texts": (header(), body({"texts": ["x"] * 17}), "input_too_large", {"limit": 16}),
    "one text too large": (header(), body({"texts": ["x" * 2001]}), "input_too_large", {"index": 0, "limit": 2000}),
    "a body too large": (header(), body({"texts": ["x" * 1900] * 5}), "input_too_large", {"limit": 8000}),
    "a text longer than the model": (
        header(truncate=False),
        body({"texts": ["ok", "word " * 100]}),
        "text_too_long",
        {"index": 1, "tokens": 102, "limit": 64},
    ),
    "an unknown model": (header(model="other"), GOOD, "unknown_model", {"known": ["stub"]}),
    "an unknown task": (header(task="dance"), GOOD, "unknown_task", {"known": ["document", "query"]}),
    "dimensions not offered": (header(dimensions=5), GOOD, "unknown_dimensions", {"offered": [8, 4]}),
    "an unknown precision": (header(precision="int3"), GOOD, "invalid_input", {}),
    "a lone surrogate": (header(), body({"texts": ["?"]}).replace(b"\xa1?", b"\xa3\xed\xa0\x80"), "malformed", {}),
    "a NUL character": (header(), body({"texts": ["one", "a\0b"]}), "invalid_input", {"index": 1}),
    "a deadline in the past": (header(deadline_ms=-5), GOOD, "expired", {}),
    "a deadline of now": (header(deadline_ms=0), GOOD, "expired", {}),
    "another protocol version": (header(v=99), GOOD, "unsupported_version", {"spoken": 1}),
    "no protocol version": (body({"id": 7, "op": "embed"}), GOOD, "unsupported_version", {"spoken": 1}),
    "an unknown op": (header(op="dance"), GOOD, "malformed", {}),
    "an unknown option": (header(dimension=5), GOOD, "malformed", {}),
    "an option of the wrong type": (header(truncate="yes"), GOOD, "malformed", {}),
    "an unknown lane": (header(lane="fast"), GOOD, "malformed", {}),
    "a body that is no msgpack": (header(), b"\xc1\xc1", "malformed", {}),
    "a body that is no map": (header(), body(["texts"]), "malformed", {}),
    "a body with other keys": (header(), body({"text": ["a"]}), "malformed", {}),
    "a body with texts and ids": (header(), body({"texts": ["a"], "ids": [[1]]}), "malformed", {}),
    "an empty body": (header(), b"", "malformed", {}),
    "ids that are no lists": (header(), body({"ids": [1, 2]}), "invalid_input", {}),
    "ids beyond the vocabulary": (header(), body({"ids": [[1, 30_000]]}), "invalid_input", {"index": 0}),
    "negative ids": (header(), body({"ids": [[1, -1]]}), "invalid_input", {"index": 0}),
    "more ids than the model takes": (
        header(truncate=False),
        body({"ids": [[1] * 65]}),
        "text_too_long",
        {"limit": 64},
    ),
}


@pytest.mark.parametrize("case", WIRE)
def test_bad_request_gets_its_own_error(client: RawClient, case: str) -> None:
    head, its_body, code, details = WIRE[case]
    client.send_frames(head, its_body)
    answer, _ = client.receive()
    assert isinstance(answer, ErrorAnswer)
    assert answer.code == code, answer
    assert answer.id == 7
    assert {key: answer.details.get(key) for key in details} == details
    assert answer.message


@pytest.mark.parametrize(
    "frames",
    [
        (header(),),
        (header(), GOOD, b"more"),
        (b"",),
        (b"\xc1", GOOD),
        (body([1, 2]), GOOD),
        (body({"v": 1, "op": "embed"}), GOOD),
        (body({"v": 1, "op": "embed", "id": 0}), GOOD),
        (body({"v": 1, "op": "embed", "id": "seven"}), GOOD),
        (b"\x91" * 70_000, GOOD),
        (b"\xdd\xff\xff\xff\xff", GOOD),
        (body({"v": 1, "id": 7, "op": "embed", "model": "x" * 70_000}), GOOD),
    ],
    ids=range(11),
)
def test_frames_that_are_no_request_are_answered_as_malformed(client: RawClient, frames: tuple[bytes, ...]) -> None:
    client.send_frames(*frames)
    answer, _ = client.receive()
    assert isinstance(answer, ErrorAnswer)
    assert answer.code == "malformed"


def test_id_that_is_in_use_is_refused_and_the_first_is_answered(client: RawClient) -> None:
    client.send(Embed(id=9), bodies.encode_texts(["stall 0.1"], Limits()))
    client.send(Embed(id=9), bodies.encode_texts(["again"], Limits()))
    answers = [client.receive()[0] for _ in range(2)]
    assert [type(answer) for answer in answers] == [ErrorAnswer, Vectors]


def test_empty_text_and_nul_are_embedded_where_the_client_asks_for_it(client: RawClient) -> None:
    assert client.embed(["", "a\0b"], lenient=True).shape == (2, 8)


def test_long_text_is_cut_and_reported(client: RawClient) -> None:
    client.ask(["short", "word " * 100])
    answer, _ = client.receive()
    assert isinstance(answer, Vectors)
    assert answer.truncated == (1,)
    assert answer.tokens == 3 + 64


def test_tokenize_shows_what_embed_would_compute(client: RawClient) -> None:
    client.send(Tokenize(id=3), bodies.encode_texts(["one two", "three"], Limits()))
    answer, (ids, lengths) = client.receive()
    assert isinstance(answer, Tokens)
    assert np.frombuffer(lengths, "<i4").tolist() == [4, 3]
    texts = np.split(np.frombuffer(ids, "<i4"), [4])
    by_ids = body({"ids": [text.tolist() for text in texts]})
    client.send_frames(header(id=8), by_ids)
    _, (row,) = client.receive()
    assert np.array_equal(np.frombuffer(row, "<f4").reshape(2, 8), client.embed(["one two", "three"]))


def test_request_expires_at_its_deadline_and_says_what_it_waited_for(client: RawClient) -> None:
    error = client.embed_error(["stall 0.5"], deadline_ms=100)
    assert error.code == "expired"
    assert error.details["waited_for"] == "worker"


@pytest.mark.parametrize("text", ["nan", "zero"])
def test_vectors_that_are_no_vectors_are_an_error(daemon: RunningDaemon, text: str) -> None:
    """Whose worker may be replaced for it; the neighbour is served, by it or by its successor."""
    with daemon.client() as neighbour, daemon.client() as client:
        asked = neighbour.ask(["stall 0.05", "a neighbour's text"])
        assert client.embed_error([text]).code == "bad_output"
        answer, _ = neighbour.receive()
        assert isinstance(answer, Vectors), answer
        assert answer.id == asked


def test_exception_in_the_model_ends_only_its_request(client: RawClient) -> None:
    error = client.embed_error(["raise"])
    assert error.code == "internal"
    assert "told to" in " ".join([error.message, *error.cause])
