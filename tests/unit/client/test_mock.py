"""The mock is the client without a daemon: same methods, same errors, same vectors every time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable

import numpy as np
import pytest

from embeddaemon.client.aio import AsyncClient
from embeddaemon.client.sync import Client
from embeddaemon.errors import (
    EmbedDaemonError,
    Expired,
    InvalidInput,
    TextTooLong,
    UnknownDimensions,
    UnknownModel,
    UnknownTask,
)
from embeddaemon.testing import MockClient, mock_vector


def public_methods(cls: type) -> dict[str, Callable[..., object]]:
    return {name: member for name, member in inspect.getmembers(cls, callable) if not name.startswith("_")}


@pytest.mark.parametrize("other", [AsyncClient, MockClient])
def test_clients_have_the_same_methods_with_the_same_parameters(other: type) -> None:
    ours, theirs = public_methods(Client), public_methods(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        mine, its = inspect.signature(ours[name]).parameters, inspect.signature(theirs[name]).parameters
        assert [(one.name, one.kind, one.default) for one in mine.values()] == [
            (one.name, one.kind, one.default) for one in its.values()
        ], name


def test_every_method_of_the_asynchronous_client_is_awaited() -> None:
    streams = {"embed_stream"}
    plain = {name for name, method in public_methods(AsyncClient).items() if not asyncio.iscoroutinefunction(method)}
    assert plain == streams


def test_every_method_says_what_it_does() -> None:
    for name, method in public_methods(Client).items():
        assert method.__doc__, name


def test_same_text_has_the_same_unit_vector() -> None:
    one, other = MockClient(), MockClient()
    vectors = one.embed(["a", "b", "a"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_array_equal(vectors, other.embed(["a", "b", "a"]))
    assert abs(float(vectors[0] @ vectors[1])) < 0.5


def test_vectors_stay_what_they_were_in_earlier_versions() -> None:
    np.testing.assert_allclose(mock_vector("a text", 4), EXPECTED, atol=1e-6)


EXPECTED = [0.3319900631904602, 0.2729756832122803, -0.3945304751396179, -0.812165379524231]


def test_shapes_are_those_of_the_client() -> None:
    client = MockClient(models={"small": 3, "large": 5})
    assert client.embed("a").shape == (3,)
    assert client.embed([]).shape == (0, 3)
    assert client.embed(["a"] * 200, model="large").shape == (200, 5)
    assert [part.shape for part in client.embed_stream(["a"] * 65)] == [(64, 3), (1, 3)]
    assert client.embed_ids([[1, 2], [3]]).shape == (2, 3)
    assert np.asarray(client.encode(["", "b"])).shape == (2, 3)
    assert [len(ids) for ids in client.tokenize(["one two", "one"])] == [4, 3]
    assert client.get_sentence_embedding_dimension() == 3


def test_task_prompt_and_model_change_the_vector() -> None:
    client = MockClient(models={"one": 8, "two": 8})
    vectors = [
        client.embed("a"),
        client.embed("a", task="query"),
        client.embed("a", prompt="p: "),
        client.embed("a", model="two"),
        client.encode_document("a"),
    ]
    assert len({vector.tobytes() for vector in vectors if isinstance(vector, np.ndarray)}) == 5


def test_long_text_is_cut_and_reported() -> None:
    client = MockClient(max_tokens=4)
    assert client.embed_detailed(["a", "a b c d"]).truncated == (1,)
    with pytest.raises(TextTooLong) as caught:
        client.embed(["a", "a b c d"], truncate=False)
    assert caught.value.details == {"index": 1, "tokens": 6, "limit": 4}


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda client: client.embed(["a", ""]), InvalidInput),
        (lambda client: client.embed("a\0b"), InvalidInput),
        (lambda client: client.embed(b"a"), InvalidInput),
        (lambda client: client.embed(["\ud800"]), InvalidInput),
        (lambda client: client.embed("a", model="other"), UnknownModel),
        (lambda client: client.embed("a", task="other"), UnknownTask),
        (lambda client: client.embed("a", dimensions=7), UnknownDimensions),
        (lambda client: client.embed("a", precision="int3"), InvalidInput),
        (lambda client: client.embed("a", timeout=-1), Expired),
        (lambda client: client.load("other"), UnknownModel),
        (lambda client: client.model_info("other"), UnknownModel),
        (lambda client: client.encode("a", output_value="token_embeddings"), InvalidInput),
        (lambda client: client.encode("a", convert_to_tensor=True), InvalidInput),
    ],
)
def test_mistakes_raise_what_the_daemon_raises(
    ask: Callable[[MockClient], object], error: type[EmbedDaemonError]
) -> None:
    with pytest.raises(error):
        ask(MockClient())


def test_bad_text_is_named_by_its_place_in_the_call() -> None:
    with pytest.raises(InvalidInput, match="text 100 is empty") as caught:
        MockClient().embed(["a"] * 100 + [""])
    assert caught.value.details["index"] == 100


def test_health_info_and_loading() -> None:
    with MockClient(models={"m": 4}) as client:
        assert client.health().ok
        assert client.health(deep=True)
        assert not client.health("other")
        assert client.load("m")["state"] == "ready"
        assert client.model_info().state == "ready"
        assert client.unload("m") == {"model": "m", "state": "available"}
        info = client.model_info()
        assert (info.name, info.dimension, info.max_tokens) == ("m", 4, 256)
        assert client.status()["instance"] == client.hello().instance
    with pytest.raises(RuntimeError, match="closed"):
        client.embed("a")


def test_numbers_of_other_precisions_have_the_shape_that_the_daemon_gives() -> None:
    with MockClient(models={"mock": 20}) as client:
        exact = client.embed(["one", "two"])
        for precision, columns in (("float16", 20), ("int8", 20), ("uint8", 20), ("binary", 3), ("ubinary", 3)):
            found = client.embed_detailed(["one", "two"], precision=precision)
            assert found.vectors.shape == (2, columns)
            assert (found.as_float32() * exact).sum(axis=1).min() > 0.7
