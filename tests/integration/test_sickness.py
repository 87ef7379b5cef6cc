"""Workers that live and are not well, against the real daemon: a thread that hangs, bad numbers, wrong numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddaemon.client.sync import Client
from embeddaemon.errors import BadOutput, Quarantined
from tests.support.daemon import RunningDaemon, running_daemon, stub_folder
from tests.support.stub_engine import plain_vector
from tests.support.waiting import seconds, wait_until


def model(tmp_path: Path, *, load: str = "ok", **options: Any) -> dict[str, Any]:
    return {"name": "stub", "source": f"path:{stub_folder(tmp_path, load=load)}", **options}


def told(running: RunningDaemon, event: str) -> int:
    """Lines of the log about an event."""
    return sum(f" {event} " in line for line in running.output().splitlines())


def deaths(running: RunningDaemon) -> dict[str, int]:
    found: dict[str, int] = running.status()["models"][0]["deaths"]
    return found


def assert_well(client: Client) -> None:
    vector = plain_vector("a text", 8)
    assert np.allclose(client.embed("a text"), vector / np.linalg.norm(vector), atol=1e-6)


def test_stream_that_hangs_beside_one_that_works_is_found_and_its_stack_is_in_the_log(
    socket_folder: Path, tmp_path: Path
) -> None:
    models = [model(tmp_path, load="streams", threads=2)]
    with (
        running_daemon(socket_folder, models=models, stall_seconds=0.6, heartbeat_seconds=0.1) as running,
        Client(running.endpoint, timeout=seconds(30)) as client,
        running.client(timeout_seconds=30.0) as raw,
    ):
        assert_well(client)
        raw.ask(["stall 600"], deadline_ms=60_000)
        wait_until((tmp_path / "stub_obeyed.txt").exists, 10, describe=running.output)
        answers = 0
        while not told(running, "worker_died"):
            assert_well(client)  # the other stream answers all the while
            answers += 1
        assert answers > 5
        answer, _ = raw.receive()
        assert getattr(answer, "code", "ok") == "poisoned"
        assert deaths(running) == {"stalled": 2}
        assert "stub_engine.py" in running.output()
        assert "in _obey" in running.output()


def test_template_that_hangs_while_it_loads_writes_its_stack_before_it_is_killed(
    socket_folder: Path, tmp_path: Path
) -> None:
    models = [model(tmp_path, load="slow 600")]
    with (
        running_daemon(socket_folder, models=models, load_timeout_seconds=1.0) as running,
        running.client(timeout_seconds=30.0) as raw,
    ):
        raw.ask(["a text"], deadline_ms=20_000)
        wait_until(lambda: told(running, "load_timeout") > 0, 20, describe=running.output)
        assert "in load" in running.output()


def test_worker_that_goes_bad_is_replaced_and_what_it_was_asked_is_answered(
    socket_folder: Path, tmp_path: Path
) -> None:
    with running_daemon(socket_folder, models=[model(tmp_path)]) as running, Client(running.endpoint) as client:
        with pytest.raises(BadOutput):
            client.embed("spoil")  # whoever is asked goes bad
        wait_until(lambda: told(running, "worker_canary_failed") > 0, 10, describe=running.output)
        assert_well(client)
        assert deaths(running) == {"bad_output": 1, "canary_failed": 1}


def test_text_that_has_no_vector_costs_one_worker_and_not_one_each_time(socket_folder: Path, tmp_path: Path) -> None:
    with running_daemon(socket_folder, models=[model(tmp_path)]) as running, Client(running.endpoint) as client:
        for _ in range(5):
            with pytest.raises(BadOutput):
                client.embed("nan")
            assert_well(client)
        assert deaths(running) == {"bad_output": 1}


def test_idle_worker_whose_vectors_are_wrong_is_found_and_replaced(socket_folder: Path, tmp_path: Path) -> None:
    with (
        running_daemon(socket_folder, models=[model(tmp_path)], canary_seconds=0.3) as running,
        Client(running.endpoint) as client,
    ):
        assert_well(client)  # its vector was right at first
        client.embed("drift")
        wait_until(lambda: deaths(running) == {"canary_failed": 1}, 10, describe=running.output)
        assert_well(client)
        assert told(running, "worker_canary_failed") == 1


def test_model_whose_workers_are_all_wrong_is_in_quarantine_until_it_is_lifted(
    socket_folder: Path, tmp_path: Path
) -> None:
    with (
        running_daemon(socket_folder, models=[model(tmp_path)], canary_seconds=0.3) as running,
        Client(running.endpoint) as client,
    ):
        assert_well(client)
        drifts = tmp_path / "stub_drifts"
        drifts.touch()
        wait_until(lambda: client.status()["models"][0]["state"] == "quarantined", 10, describe=running.output)
        with pytest.raises(Quarantined) as refused:
            client.embed("a text")
        assert refused.value.retry_after_ms is not None
        assert 0 < refused.value.retry_after_ms <= 60_000
        drifts.unlink()
        with pytest.raises(Quarantined):
            client.load("stub")
        client.load("stub", force=True)
        assert_well(client)


def test_canary_keeps_no_model_alive(socket_folder: Path, tmp_path: Path) -> None:
    models = [model(tmp_path, keep_alive_seconds=1.0)]
    with (
        running_daemon(socket_folder, models=models, canary_seconds=0.1) as running,
        Client(running.endpoint) as client,
    ):
        client.embed("a text")
        wait_until(lambda: not running.named("ed-template"), 10, describe=running.output)
        assert client.status()["requests"]["answered"] == 1
