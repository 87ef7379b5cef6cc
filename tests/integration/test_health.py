"""``health`` of real daemons, by the client and by the command: what it says, how soon, and what it leaves alone."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from embeddaemon import AsyncClient, Client
from embeddaemon.cli.app import cli
from embeddaemon.cli.console import Exit
from tests.support.daemon import running_daemon, stub_folder
from tests.support.raw_client import RawClient
from tests.support.waiting import seconds, wait_until

HEADINGS = "MODEL  STATE  READY  WAITING  EMBEDDED"


def run(*arguments: str) -> tuple[int, str]:
    """The command, in this process: its exit code and what it printed."""
    done = CliRunner().invoke(cli, ["health", *arguments])
    return done.exit_code, done.output


def test_model_that_is_loaded_embeds_and_one_that_is_not_is_left_alone_unless_woken(
    tmp_path: Path, socket_folder: Path
) -> None:
    models = [{"name": name, "source": f"path:{stub_folder(tmp_path / name)}"} for name in ("one", "two")]
    with running_daemon(socket_folder, models=models) as running:
        with Client(running.endpoint, timeout=seconds(20)) as client:
            client.load("one")
            before = client.status()
            health = client.health(deep=True)
            one, two = health.models
            assert health
            assert (one.embedded, one.loaded) == (True, True)
            assert (two.embedded, two.loaded, two.ready) == (None, False, True)
            after = client.status()
            assert after["requests"] == before["requests"]
            assert after["models"][0]["idle_seconds"] > before["models"][0]["idle_seconds"]
            assert after["models"][1]["loads"] == 0
            assert client.health("two", deep=True, wake=True).models[0].embedded is True
            assert not client.health("none")

        async def ask() -> bool:
            async with AsyncClient(running.endpoint, timeout=seconds(20)) as client:
                return bool(await client.health("one", deep=True))

        assert asyncio.run(ask())
        assert run("--endpoint", running.endpoint) == (
            Exit.OK,
            f"healthy\n{HEADINGS}\none    ready  yes    0        -\ntwo    ready  yes    0        -\n",
        )
        code, output = run("--endpoint", running.endpoint, "--deep", "--model", "one", "--json")
        assert code == Exit.OK
        assert json.loads(output)["models"][0]["embedded"] is True
        code, output = run("--endpoint", running.endpoint, "--model", "none", "--deep", "--wake")
        assert code == Exit.USAGE
        assert output.startswith("wrong question\nunknown_model: ")
        with Client(running.endpoint, timeout=seconds(20)) as client:
            assert client.status()["requests"]["refused"] == 0
            client.unload("one")
        code, output = run("--endpoint", running.endpoint, "--deep", "--wake", "--model", "one")
        assert code == Exit.OK, output


def test_worker_that_does_nothing_any_more_is_found_out_though_it_counts_as_ready(
    tmp_path: Path, socket_folder: Path
) -> None:
    model = {"name": "stub", "source": f"path:{stub_folder(tmp_path / 'model')}"}
    with running_daemon(socket_folder, models=[model]) as running:
        with Client(running.endpoint, timeout=seconds(20)) as client:
            client.load("stub")
        (worker,) = running.named("ed-worker")
        worker.suspend()
        try:
            assert run("--endpoint", running.endpoint)[0] == Exit.OK
            code, output = run("--endpoint", running.endpoint, "--deep", "--timeout", "1")
        finally:
            worker.resume()
        assert code == Exit.FAILED
        assert output.startswith("ready, but not embedding\nstub: no vector came within")
        assert output.splitlines()[-1].split() == ["stub", "ready", "yes", "0", "no"]


def test_full_queue_and_busy_workers_do_not_read_as_dead(tmp_path: Path, socket_folder: Path) -> None:
    model = {"name": "stub", "source": f"path:{stub_folder(tmp_path / 'model')}"}
    with (
        running_daemon(socket_folder, models=[model], max_queued_requests=1) as running,
        RawClient(running.endpoint, timeout_seconds=20) as crowd,
        Client(running.endpoint, timeout=seconds(20)) as client,
    ):
        client.load("stub")
        for _ in range(6):
            crowd.ask(["stall 0.3"])
        wait_until(lambda: client.health().models[0].queue_full, 10, describe=running.output)
        health = client.health(deep=True)
        assert health
        assert health.models[0].embedded is True
        for _ in range(6):
            crowd.receive()


def test_health_checks_keep_no_model_in_memory(tmp_path: Path, socket_folder: Path) -> None:
    model = {"name": "stub", "source": f"path:{stub_folder(tmp_path / 'model')}", "keep_alive_seconds": 1.0}
    with (
        running_daemon(socket_folder, models=[model]) as running,
        Client(running.endpoint, timeout=seconds(20)) as client,
    ):
        client.load("stub")
        assert client.health(deep=True).models[0].embedded
        wait_until(lambda: not client.health(deep=True).models[0].loaded, 10, describe=running.output)
        assert client.health()


def test_preloaded_model_that_fails_is_told_by_the_exit_code(tmp_path: Path, socket_folder: Path) -> None:
    folder = stub_folder(tmp_path / "model", load="fail")
    model = {"name": "broken", "source": f"path:{folder}", "preload": True}
    with running_daemon(socket_folder, models=[model]) as running:
        wait_until(lambda: "load_failed" in running.output(), 10, describe=running.output)
        code, output = run("--endpoint", running.endpoint)
        assert code == Exit.FAILED
        assert "not ready" in output
        assert "model broken is failed" in output


def test_nobody_there_and_a_daemon_that_hangs_have_a_code_of_their_own_in_bounded_time(
    tmp_path: Path, socket_folder: Path
) -> None:
    assert run("--endpoint", f"{socket_folder}/none")[0] == Exit.UNREACHABLE
    model = {"name": "stub", "source": f"path:{stub_folder(tmp_path / 'model')}"}
    with running_daemon(socket_folder, models=[model]) as running:
        assert run("--endpoint", running.endpoint)[0] == Exit.OK
        running.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            code, output = run("--endpoint", running.endpoint, "--timeout", "0.5", "--json")
            assert time.monotonic() - began < seconds(3)
        finally:
            running.process.send_signal(signal.SIGCONT)
        assert code == Exit.UNREACHABLE
        assert json.loads(output)["live"] is False


def test_daemon_that_drains_lives_and_is_not_ready(tmp_path: Path, socket_folder: Path) -> None:
    model = {"name": "stub", "source": f"path:{stub_folder(tmp_path / 'model')}"}
    with running_daemon(socket_folder, models=[model]) as running:
        with Client(running.endpoint, timeout=seconds(20)) as client:
            client.load("stub")
            asking = threading.Thread(target=lambda: client.embed("stall 1"))
            asking.start()
            wait_until(lambda: client.status()["open"] == 1, 10, describe=running.output)
            running.process.send_signal(signal.SIGTERM)
            wait_until(lambda: client.health().draining, 10, describe=running.output)
            assert not client.health().ready
            asking.join()
        running.process.wait(seconds(10))


@pytest.mark.parametrize("arguments", [("--wake",), ("--timeout", "0")])
def test_wrong_usage_is_refused(arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] == Exit.USAGE
