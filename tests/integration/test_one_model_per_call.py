"""The vectors of a call are of one model's weights, whatever happens to its files meanwhile, and of whole vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embeddaemon import AsyncClient, Client, ModelChanged
from embeddaemon.protocol import codec
from embeddaemon.protocol.messages import Body, Embed, Request, Vectors
from tests.support.checkpoints import TinyBert, save_weights
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.fake_daemon import Answer, FakeDaemon, vector_of
from tests.support.waiting import seconds, wait_until

TEXTS = [f"text number {number}" for number in range(300)]


def answered_of(daemon: FakeDaemon, weights: list[str], factors: dict[str, float]) -> None:
    """Pieces are answered of these weights, one after the other, and then of the last; a factor tells whose it is."""

    def behaviour(request: Request, body: Body | None) -> Answer | None:
        if not isinstance(request, Embed):
            return None
        header, frame = daemon.proper_answer(request, body)
        answer = codec.decode_answer(header)
        assert isinstance(answer, Vectors)
        own = weights.pop(0) if len(weights) > 1 else weights[0]
        numbers = np.frombuffer(frame, "<f4") * np.float32(factors[own])
        return Answer([codec.encode_answer(replace(answer, weights=own)), numbers.tobytes()])

    daemon.behaviour = behaviour


def expected(factor: float) -> np.ndarray:
    vectors = np.stack([vector_of(text) for text in TEXTS])
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * factor
    return unit


def test_pieces_of_older_weights_are_asked_once_more(fake: FakeDaemon) -> None:
    answered_of(fake, ["old", "new", "old", "new"], {"old": 1.0, "new": 2.0})
    told: list[tuple[int, int]] = []
    with Client(fake.endpoint, timeout=seconds(10)) as client:
        result = client.embed_detailed(TEXTS, progress=lambda done, total: told.append((done, total)))
    np.testing.assert_allclose(result.vectors, expected(2.0), rtol=1e-5)
    assert result.weights == "new"
    assert told[-1] == (300, 300)
    assert len(fake.embeds) == 5 + 2


def test_pieces_of_older_weights_are_asked_once_more_by_the_asynchronous_client(fake: FakeDaemon) -> None:
    answered_of(fake, ["old", "new"], {"old": 1.0, "new": 2.0})

    async def ask() -> np.ndarray:
        async with AsyncClient(fake.endpoint, timeout=seconds(10)) as client:
            return await client.embed(TEXTS)

    np.testing.assert_allclose(asyncio.run(ask()), expected(2.0), rtol=1e-5)


def test_model_that_changes_again_and_again_is_told(fake: FakeDaemon) -> None:
    answered_of(fake, ["a", "b", "b", "b", "b", "c"], dict.fromkeys("abc", 1.0))
    with Client(fake.endpoint, timeout=seconds(10)) as client, pytest.raises(ModelChanged, match="more than once"):
        client.embed(TEXTS)


@pytest.fixture
def fake(socket_folder: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(f"ipc://{socket_folder}/fake.sock") as daemon:
        yield daemon


def test_new_files_under_a_stream_end_it_and_encode_cuts_whole_vectors(tmp_path: Path, socket_folder: Path) -> None:
    """One daemon for both: it is the start that takes time."""
    folder = TinyBert(seed=1, truncate_dim=8).write(tmp_path / "model")
    models = [{"name": "tiny", "source": f"path:{folder}", "precision": "float32"}]
    with (
        running_daemon(socket_folder, engine="torch", models=models, file_check_seconds=0.2) as running,
        Client(running.endpoint, timeout=seconds(30)) as client,
    ):
        client.load("tiny", timeout=seconds(120))  # torch is imported first, which takes long on a busy machine
        check_cuts(client)
        before = client.embed_detailed("a text")
        assert before.weights
        assert client.embed_detailed("another").weights == before.weights
        assert client.embed_detailed("another", precision="int8", dimensions=8).weights == before.weights
        save_weights(folder / "new", TinyBert(seed=2).tensors())
        stream = client.embed_stream(changing(running, folder, before.weights))
        assert len(next(stream)) == 64
        with pytest.raises(ModelChanged) as raised:
            list(stream)
        assert raised.value.details["given"] == 64
        assert client.embed_detailed("a text").weights != before.weights


def changing(running: RunningDaemon, folder: Path, weights: str) -> Iterator[str]:
    """Texts of a stream: while the second piece is made the model gets other files, and loads them."""
    answered = running.status()["requests"]["answered"]
    for number in range(65):
        yield f"text {number}"
    with Client(running.endpoint, timeout=seconds(30)) as other:
        wait_until(lambda: running.status()["requests"]["answered"] > answered, 10, describe=running.output)
        (folder / "new").rename(folder / "model.safetensors")
        wait_until(lambda: other.embed_detailed("another").weights != weights, 20, describe=running.output)
    for number in range(100):
        yield f"text {number}"


def check_cuts(client: Client) -> None:
    """The folder says 8; whoever asks for more with ``encode`` gets more, as of the class that it stands in for."""
    (info,) = client.models()
    assert (info.dimension, info.whole_dimension) == (8, 32)
    texts = ["one text", "another"]
    whole = client.embed(texts, dimensions=32, normalize=False)
    for asked, columns in ((16, 16), (3, 3), (32, 32), (1000, 32), (2**70, 32)):
        cut = np.asarray(client.encode(texts, truncate_dim=asked))
        np.testing.assert_allclose(cut, whole[:, :columns], atol=1e-6)
    unit = np.asarray(client.encode(texts, truncate_dim=16, normalize_embeddings=True))
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    bits = np.asarray(client.encode(texts, truncate_dim=16, precision="ubinary"))
    np.testing.assert_array_equal(bits, np.packbits(whole[:, :16] > 0, axis=1))
    assert np.asarray(client.encode([], truncate_dim=16)).shape == (0, 16)
    assert np.asarray(client.encode(texts)).shape == (2, 8)
    for wrong in (0, -1, True, "16"):
        with pytest.raises(ValueError, match="truncate_dim"):
            client.encode(texts, truncate_dim=wrong)  # type: ignore[arg-type]  # on purpose
