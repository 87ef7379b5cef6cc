"""Both clients against the real daemon with the stub engine: the sides agree on every op, a restart loses nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embeddaemon import (
    AsyncClient,
    Client,
    InputTooLarge,
    InvalidInput,
    TextTooLong,
    UnknownDimensions,
    UnknownModel,
    UnknownTask,
)
from embeddaemon.client._actions import Patience
from tests.support.daemon import RunningDaemon, running_daemon, stub_folder
from tests.support.sockets import short_folder
from tests.support.waiting import seconds

TEXTS = [f"text number {number}" for number in range(300)]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    model = stub_folder(tmp_path_factory.mktemp("model"))
    with (
        short_folder() as sockets,
        running_daemon(sockets, models=[{"name": "stub", "source": f"path:{model}"}]) as running,
    ):
        yield running


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[Client]:
    with Client(daemon.endpoint, timeout=seconds(30)) as connected:
        yield connected


def test_every_method_is_answered(client: Client) -> None:
    assert client.embed("one").shape == (8,)
    assert client.embed([]).shape == (0, 8)
    assert client.embed_detailed("one two").tokens == 4
    (ids,) = client.tokenize("one two")
    np.testing.assert_allclose(client.embed_ids([ids])[0], client.embed("one two"), atol=1e-6)
    assert client.hello().limits.max_texts == 2048
    info = client.model_info()
    assert (info.name, info.dimension, set(info.tasks)) == ("stub", 8, {"query", "document"})
    assert client.load("stub")["state"] == "ready"
    assert client.health(deep=True)
    assert client.status()["requests"]["answered"] > 0
    assert client.unload("stub")["model"] == "stub"


def test_pieces_equal_the_same_texts_alone(client: Client) -> None:
    whole = client.embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    for index in (0, 63, 64, 299):
        np.testing.assert_allclose(whole[index], client.embed(TEXTS[index]), atol=1e-6)


def test_task_is_the_prompt_of_the_model(client: Client) -> None:
    np.testing.assert_allclose(client.embed("a", task="query"), client.embed("a", prompt="find this: "), atol=1e-6)
    query = client.encode_query("a", normalize_embeddings=True)
    np.testing.assert_allclose(np.asarray(query), client.embed("a", task="query"), atol=1e-6)


def test_mistakes_have_their_own_errors(client: Client) -> None:
    with pytest.raises(InvalidInput, match="text 70"):
        client.embed(["a"] * 70 + [""])
    with pytest.raises(InvalidInput):
        client.embed("a\0b")
    with pytest.raises(UnknownModel, match="stub"):
        client.embed("a", model="other")
    with pytest.raises(UnknownTask, match="query"):
        client.embed("a", task="other")
    with pytest.raises(UnknownDimensions):
        client.embed("a", dimensions=7)
    with pytest.raises(TextTooLong) as caught:
        client.embed(["a"] * 64 + ["word " * 100], truncate=False)
    assert caught.value.details["index"] == 64
    with pytest.raises(InputTooLarge):
        client.embed("a" * (1024 * 1024 + 1))
    assert np.asarray(client.encode(["", "a"])).shape == (2, 8)


def test_long_text_is_cut_and_reported(client: Client) -> None:
    assert client.embed_detailed(["a"] * 100 + ["word " * 100]).truncated == (100,)


def test_asynchronous_client_gets_the_same_vectors(client: Client, daemon: RunningDaemon) -> None:
    async def ask() -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], ...]:
        async with AsyncClient(daemon.endpoint, timeout=seconds(30)) as connected:
            return tuple(await asyncio.gather(*(connected.embed(text) for text in TEXTS[:50])))

    np.testing.assert_allclose(np.stack(asyncio.run(ask())), client.embed(TEXTS[:50]), atol=1e-6)


def test_killed_daemon_that_comes_back_answers_the_call_that_was_running(socket_folder: Path, tmp_path: Path) -> None:
    model = {"name": "stub", "source": f"path:{stub_folder(tmp_path / 'model')}"}
    patience = Patience(reconnect=seconds(10), silence=0.2)
    with (
        running_daemon(socket_folder, models=[model]) as first,
        Client(first.endpoint, timeout=seconds(30), patience=patience) as client,
    ):
        answers = client.embed_stream(TEXTS)
        before = next(answers)
        first.kill_supervisor()
        after: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []
        asking = threading.Thread(target=lambda: after.append(client.embed(TEXTS)))
        asking.start()
        with running_daemon(socket_folder, models=[model]):
            rest = list(answers)
            asking.join(seconds(30))
            np.testing.assert_allclose(np.concatenate([before, *rest]), after[0], atol=1e-6)
