"""Hostile messages and hostile connections against a daemon with few descriptors and little memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from embeddaemon import Client
from tests.support.chaos_storm import MOST_GROWTH_BYTES
from tests.support.daemon import RunningDaemon, running_daemon, stub_folder
from tests.support.waiting import seconds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="what processes hold is read as Linux tells it"),
]

PROGRAM = Path(__file__).parents[1] / "support" / "fuzz_program.py"
MIB = 1 << 20
DESCRIPTORS = 256
DATA_BYTES = 512 * MIB
SEED = int(os.environ.get("EMBEDDAEMON_CHAOS_SEED", "1"))
MOST_TIMES_SLOWER = 3.0
LEAST_MS = 20.0
"""On a machine that others use too, a p99 below this says nothing of us."""


@pytest.fixture
def daemon(socket_folder: Path, tmp_path: Path) -> Iterator[RunningDaemon]:
    folder = stub_folder(tmp_path / "stub")
    model = {"name": "stub", "source": f"path:{folder}", "preload": True, "threads": 1, "estimate": 100 * MIB}
    settings = {"exit_with_parent": True, "models": [model]}
    limits = f'ulimit -n {DESCRIPTORS} && ulimit -d {DATA_BYTES // 1024} && exec "$0" "$@"'
    with running_daemon(socket_folder, launcher=("/bin/sh", "-c", limits), **settings) as running:
        yield running


class GoodClient(threading.Thread):
    """Embeds one text after the other; how long each call took, and what went wrong."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(name="good client", daemon=True)
        self.took: list[float] = []
        self.wrong: list[str] = []
        self._endpoint = endpoint
        self._finish = threading.Event()

    def run(self) -> None:
        with Client(self._endpoint, timeout=seconds(10)) as client:
            wanted = client.embed("a good client")
            while not self._finish.wait(0.002):
                begun = time.monotonic()
                try:
                    vector = client.embed("a good client")
                except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
                    self.wrong.append(f"{type(error).__name__}: {error}")
                    continue
                self.took.append(time.monotonic() - begun)
                if (vector != wanted).any():
                    self.wrong.append("another vector")

    def stop(self) -> None:
        self._finish.set()
        self.join()

    def p99_ms(self) -> float:
        return statistics.quantiles(self.took, n=100)[98] * 1000


@pytest.mark.parametrize(
    ("messages", "peers", "rate"),
    [
        pytest.param(4_000, 400, 600.0, id="short"),
        pytest.param(100_000, 1_000, 600.0, marks=pytest.mark.soak, id="long"),
    ],
)
def test_hostile_peers_harm_neither_the_daemon_nor_a_good_client(
    daemon: RunningDaemon, messages: int, peers: int, rate: float
) -> None:
    supervisor = psutil.Process(daemon.process.pid)
    before = good_client_alone(daemon)
    warm_up(daemon)
    early = supervisor.memory_full_info().uss
    client = GoodClient(daemon.endpoint)
    client.start()
    command = [sys.executable, str(PROGRAM), str(daemon.folder / "s"), str(messages), str(peers), str(rate), str(SEED)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    client.stop()
    outcome = json.loads(said)
    late = supervisor.memory_full_info().uss
    with daemon.client() as raw:
        status = raw.status()
    sys.stdout.write(
        f"seed {SEED}: {messages} messages and {sum(outcome['peers'].values())} connections in "
        f"{outcome['seconds']:.0f} s: {outcome['codes']}; {outcome['peers']}\n"
        f"  supervisor's private memory {early / MIB:.1f} -> {late / MIB:.1f} MiB; good client: {len(client.took)} "
        f"calls, p99 {before.p99_ms():.1f} -> {client.p99_ms():.1f} ms, slowest {max(client.took) * 1000:.0f} ms\n"
        f"  counted by the daemon: {status['clients']['counts']}\n"
    )
    assert daemon.process.poll() is None, daemon.output()[-5000:]
    assert "Traceback" not in daemon.output(), daemon.output()[-20_000:]
    refused = status["clients"]["counts"]
    assert refused.get("refused_connection", 0) + refused.get("accept_paused", 0), "descriptors never ran short"
    assert outcome["wrong"] == {}
    assert client.wrong == []
    assert status["open"] == 0
    assert late - early < MOST_GROWTH_BYTES
    assert client.p99_ms() < max(MOST_TIMES_SLOWER * before.p99_ms(), LEAST_MS)


def good_client_alone(daemon: RunningDaemon) -> GoodClient:
    client = GoodClient(daemon.endpoint)
    client.start()
    end = threading.Event()
    end.wait(seconds(2))
    client.stop()
    assert client.wrong == []
    return client


def warm_up(daemon: RunningDaemon) -> None:
    """A few hostile messages first: what is imported or allocated once is no growth."""
    command = [sys.executable, str(PROGRAM), str(daemon.folder / "s"), "300", "20", "1000", "0"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
