"""Numbers of every precision from a worker through the daemon to both clients, the cache and the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from embeddaemon import AsyncClient, Client, InvalidInput, UnknownDimensions, UnknownTask
from embeddaemon.cli.app import cli
from embeddaemon.protocol.numbers import written
from embeddaemon.protocol.precisions import PRECISIONS
from tests.support.daemon import RunningDaemon, running_daemon, stub_folder
from tests.support.sockets import short_folder
from tests.support.waiting import seconds

TEXTS = [f"text number {number}" for number in range(150)]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    model = stub_folder(tmp_path_factory.mktemp("model"), dim=20)
    models = [{"name": "stub", "source": f"path:{model}", "dimensions": [12], "workers": {"min": 2, "max": 2}}]
    with short_folder() as sockets, running_daemon(sockets, models=models, cache_bytes=1 << 20) as running:
        yield running


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[Client]:
    with Client(daemon.endpoint, timeout=seconds(30)) as connected:
        yield connected


@pytest.mark.parametrize("dimensions", [None, 12])
@pytest.mark.parametrize("precision", list(PRECISIONS))
def test_pieces_from_several_workers_are_the_numbers_of_the_vectors(
    client: Client, precision: str, dimensions: int | None
) -> None:
    exact = client.embed(TEXTS, dimensions=dimensions)
    found = client.embed_detailed(TEXTS, dimensions=dimensions, precision=precision)
    assert (found.precision, found.dimensions) == (precision, dimensions or 20)
    expected = written(exact, PRECISIONS[precision], found.ranges)
    assert str(found.vectors.dtype) == str(expected.dtype)
    np.testing.assert_array_equal(found.vectors, expected)
    assert np.sign(found.as_float32()[np.abs(exact) > 0.05]).tolist() == np.sign(exact[np.abs(exact) > 0.05]).tolist()
    streamed = client.embed_stream(TEXTS, dimensions=dimensions, precision=precision)
    np.testing.assert_array_equal(np.concatenate(list(streamed)), found.vectors)
    assert client.embed([], dimensions=dimensions, precision=precision).shape == (0, found.vectors.shape[1])


def test_ranges_are_told_to_a_stream_once(client: Client) -> None:
    told: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []
    for _ in client.embed_stream(TEXTS, precision="int8", on_ranges=told.append):
        assert len(told) == 1
    (ranges,) = told
    assert ranges.shape == (2, 20)
    expected = client.embed_detailed("another", precision="uint8").ranges
    assert expected is not None
    np.testing.assert_array_equal(ranges, expected)


def test_kept_answer_has_its_ranges(client: Client) -> None:
    first, again = (client.embed_detailed("asked twice", precision="int8") for _ in range(2))
    assert (first.timings.cached, again.timings.cached) == (False, True)
    assert first.ranges is not None
    assert again.ranges is not None
    np.testing.assert_array_equal(first.vectors, again.vectors)
    np.testing.assert_array_equal(first.ranges, again.ranges)
    assert str(client.embed("asked twice", precision="binary").dtype) == "int8"  # another precision, another answer


def test_encode_gives_the_precisions_of_the_class_that_it_stands_in_for(client: Client) -> None:
    vectors = np.asarray(client.encode(TEXTS[:3]))
    np.testing.assert_array_equal(
        np.asarray(client.encode(TEXTS[:3], precision="ubinary")), np.packbits(vectors > 0, axis=1)
    )
    cut = np.asarray(client.encode(TEXTS[:3], precision="ubinary", truncate_dim=9))
    np.testing.assert_array_equal(cut, np.packbits(vectors[:, :9] > 0, axis=1))
    assert np.asarray(client.encode(TEXTS[:3], precision="int8")).dtype == np.int8
    with pytest.raises(InvalidInput, match="truncate_dim"):
        client.encode(TEXTS[:3], precision="int8", truncate_dim=9)


def test_unknown_precision_is_refused_with_the_list(client: Client) -> None:
    for texts in (["a"], []):
        with pytest.raises(InvalidInput, match="float32, float16, int8, uint8, binary, ubinary"):
            client.embed(texts, precision="float64")


def test_asynchronous_client_gets_the_same_numbers(client: Client, daemon: RunningDaemon) -> None:
    async def ask() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        async with AsyncClient(daemon.endpoint, timeout=seconds(30)) as connected:
            pieces = [piece async for piece in connected.embed_stream(TEXTS, precision="int8")]
            return np.concatenate(pieces)

    np.testing.assert_array_equal(asyncio.run(ask()), client.embed(TEXTS, precision="int8"))


@pytest.mark.parametrize("form", ["npy", "jsonl"])
def test_command_line_refuses_8_bits_where_their_ranges_would_be_lost(daemon: RunningDaemon, form: str) -> None:
    options = ["embed", "--endpoint", daemon.endpoint, "--precision", "int8", "--format", form, "one"]
    result = CliRunner().invoke(cli, options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "mean nothing without their ranges" in result.stderr


def test_no_texts_and_wrong_options_are_refused_as_with_texts(client: Client) -> None:
    for options, error in (
        ({"dimensions": 11}, UnknownDimensions),
        ({"task": "poem"}, UnknownTask),
        ({"dimensions": 2**70}, InvalidInput),
        ({"dimensions": 10**12}, InvalidInput),
        ({"precision": ""}, InvalidInput),
        ({"normalize": "no"}, InvalidInput),
        ({"task": "query", "prompt": "p"}, InvalidInput),
    ):
        for texts in (["a"], []):
            with pytest.raises(error):
                client.embed(texts, **options)


def test_command_line_writes_numbers_as_they_are(client: Client, daemon: RunningDaemon, tmp_path: Path) -> None:
    options = ["embed", "--endpoint", daemon.endpoint, "--precision", "uint8", "one", "two"]
    result = CliRunner().invoke(cli, [*options, "-o", str(tmp_path / "vectors.npy")])
    assert result.exit_code == 0, result.output
    expected = client.embed_detailed(["one", "two"], precision="uint8")
    assert expected.ranges is not None
    matrix = np.load(tmp_path / "vectors.npy")
    assert matrix.dtype == np.uint8
    np.testing.assert_array_equal(matrix, expected.vectors)
    assert f"2 vectors written to {tmp_path}/vectors.npy" in result.stderr
    assert f"stand for to {tmp_path}/vectors.ranges.npy" in result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "vectors.ranges.npy"), expected.ranges)
    result = CliRunner().invoke(cli, [*options, "-o", str(tmp_path / "lines.jsonl")])
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.load(tmp_path / "lines.ranges.npy"), expected.ranges)
    document = json.loads(CliRunner().invoke(cli, [*options, "--format", "json"]).stdout)
    assert document["embeddings"] == expected.vectors.tolist()
    np.testing.assert_allclose(document["ranges"], expected.ranges)
