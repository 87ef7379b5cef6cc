"""The real daemon, and clients that do not wait for their answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embeddaemon.protocol.messages import Cancel, Document, ErrorAnswer, Lane
from tests.support.daemon import RunningDaemon, running_daemon, stub_folder
from tests.support.raw_client import RawClient
from tests.support.waiting import seconds, wait_until

MANY = 50


@pytest.fixture
def daemon(tmp_path: Path, socket_folder: Path) -> Iterator[RunningDaemon]:
    model = stub_folder(tmp_path / "model")
    with running_daemon(
        socket_folder, models=[{"name": "stub", "source": f"path:{model}", "preload": True}], max_queued_requests=1000
    ) as running:
        yield running


def ended(daemon: RunningDaemon) -> dict[str, int]:
    """Endings by kind, once nothing is open any more."""
    status = daemon.status()
    requests: dict[str, int] = status["requests"]
    return requests if status["open"] == 0 else {}


def keep_busy(client: RawClient, duration: float) -> int:
    """A request that takes so long, alone in a dispatch."""
    return client.ask([f"stall {duration}"], lane=Lane.BULK)


def test_requests_that_are_withdrawn_end_at_once_and_are_answered_so(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.load("stub")
        long = keep_busy(client, 0.5)
        ids = [client.ask(["a " * 20_000], lane=Lane.BULK) for _ in range(MANY)]
        client.send(Cancel(id=client.next_id(), ids=tuple(ids)))
        answers = [client.receive() for _ in range(MANY + 1)]
        assert {answer.code for answer, _ in answers if isinstance(answer, ErrorAnswer)} == {"cancelled"}
        assert sum(isinstance(answer, Document) for answer, _ in answers) == 1
        answer, _ = client.receive()
        assert not isinstance(answer, ErrorAnswer)
        assert answer.id == long
        wait_until(lambda: ended(daemon) != {}, describe=daemon.output)
        assert ended(daemon)["cancelled"] == MANY


def test_requests_of_a_client_that_was_killed_are_dropped(daemon: RunningDaemon) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.support.raw_client import RawClient
client = RawClient({daemon.endpoint!r})
client.hello()
for _ in range({MANY}):
    client.ask(["a " * 20_000], deadline_ms=60_000)
client.hello()
print("asked", flush=True)
sys.stdin.read()
"""
    with daemon.client() as client:
        client.load("stub")
        keep_busy(client, 4.0)
        wait_until(lambda: daemon.status()["workers"][0]["in_flight"] == 1, describe=daemon.output)
        killed = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert killed.stdout is not None
        assert killed.stdout.readline() == "asked\n"
        killed.kill()
        killed.communicate(timeout=seconds(10))
        wait_until(lambda: daemon.status()["requests"]["cancelled"] == MANY, describe=daemon.output)
        client.receive()
        wait_until(lambda: ended(daemon) != {}, describe=daemon.output)
        assert ended(daemon)["answered"] == 1
