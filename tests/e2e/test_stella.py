"""A model of Stella's layout through a real daemon: every dimension, both prompts, one load of the body."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embeddaemon import Client, UnknownDimensions
from tests.support.checkpoints import TinyDense
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.embedding import embedder_of
from tests.support.families.gte import PUBLISHED
from tests.support.family_checks import TEXTS
from tests.support.sockets import short_folder
from tests.support.waiting import seconds

DIMENSIONS = (8192, 6144, 4096, 2048, 1024, 768, 256)
PROMPTS = {
    "s2p_query": "Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: ",
    "s2s_query": "Instruct: Retrieve semantically similar text.\nQuery: ",
}
TASKS = (None, *PROMPTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = replace(
        PUBLISHED["stella_en_400M_v5"],
        dense=(TinyDense(size=1024, sized=True),),
        other_sizes=tuple(dim for dim in DIMENSIONS if dim != 1024),
        prompts=PROMPTS,
        positions=128,
    )
    return tiny.write(tmp_path_factory.mktemp("stella"))


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[RunningDaemon]:
    models = [{"name": "stella", "source": f"path:{folder}", "precision": "float32"}]
    with short_folder() as sockets, running_daemon(sockets, models=models, engine="torch") as running:
        yield running


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[Client]:
    with Client(daemon.endpoint, timeout=seconds(60)) as connected:
        yield connected


def test_all_dimensions_and_tasks_come_from_one_load_of_the_body(
    client: Client, daemon: RunningDaemon, folder: Path
) -> None:
    wanted = [(dim, task) for dim in (None, *DIMENSIONS) for task in TASKS]
    with ThreadPoolExecutor(8) as threads:  # at once, so that they share micro-batches
        found = list(
            threads.map(lambda one: client.embed(list(TEXTS), dimensions=one[0], task=one[1], normalize=False), wanted)
        )
    embedder = embedder_of(folder)
    expected = {(dim, task): embedder.embed(TEXTS, dimensions=dim, task=task) for dim in DIMENSIONS for task in TASKS}
    for (dim, task), rows in zip(wanted, found, strict=True):
        assert rows.shape == (len(TEXTS), dim or 1024)
        np.testing.assert_allclose(rows, expected[dim or 1024, task], atol=1e-4)
    status = client.status()
    (model,) = status["models"]
    assert model["loads"] == 1
    assert [one["kind"] for one in status["processes"]].count("template") == 1
    assert client.model_info().dimensions == DIMENSIONS


def test_dimension_without_a_head_is_refused_with_the_list(client: Client) -> None:
    with pytest.raises(UnknownDimensions, match="8192, 6144, 4096, 2048, 1024, 768, 256") as caught:
        client.embed("a", dimensions=512)
    assert caught.value.details["offered"] == list(DIMENSIONS)


@pytest.mark.parametrize(
    ("precision", "dtype", "columns"),
    [("float16", "float16", 256), ("int8", "int8", 256), ("uint8", "uint8", 256), ("binary", "int8", 32)],
)
def test_precisions_stand_for_the_same_vectors(client: Client, precision: str, dtype: str, columns: int) -> None:
    exact = client.embed(list(TEXTS), dimensions=256)
    found = client.embed_detailed(list(TEXTS), dimensions=256, precision=precision)
    assert (found.vectors.shape, str(found.vectors.dtype)) == ((len(TEXTS), columns), dtype)
    assert (found.precision, found.dimensions) == (precision, 256)
    back = found.as_float32()
    cosines = (back * exact).sum(axis=1) / np.linalg.norm(back, axis=1)
    # The tiny tokenizer knows hardly a word of the prose that the ranges are of, so some values are clipped.
    assert cosines.min() > {"binary": 0.7, "float16": 0.9999}.get(precision, 0.97)
    alone = client.embed(TEXTS[0], dimensions=256, precision=precision)
    if precision != "float16":
        assert (np.abs(alone.astype(int) - found.vectors[0].astype(int)) > 1).mean() < 0.05
