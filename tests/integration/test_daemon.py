"""The real daemon with the stub engine, end to end over its socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddaemon.protocol.messages import Document, ErrorAnswer, Vectors
from tests.support.daemon import RunningDaemon, is_gone, kill, running_daemon, stub_folder, stub_loads
from tests.support.raw_client import RawClient
from tests.support.sockets import short_folder
from tests.support.waiting import seconds, wait_until


def model(folder: Path, name: str = "stub", **options: Any) -> dict[str, Any]:
    return {"name": name, "source": f"path:{folder}", **options}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    folder = stub_folder(tmp_path_factory.mktemp("model"))
    with short_folder() as sockets, running_daemon(sockets, models=[model(folder)]) as running:
        yield running


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[RawClient]:
    with daemon.client() as client:
        yield client


def test_texts_come_back_as_unit_vectors(client: RawClient) -> None:
    vectors = client.embed(["one text", "another"])
    assert vectors.shape == (2, 8)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_hello_names_versions_limits_and_the_default_model(client: RawClient) -> None:
    hello = client.hello()
    assert hello["v"] == 1
    assert hello["default_model"] == "stub"
    assert hello["limits"]["max_texts"] == 2048
    assert hello["pid"] > 1


def test_requests_of_many_clients_each_get_their_own_answer(daemon: RunningDaemon) -> None:
    with daemon.client() as one, daemon.client() as two:
        ids = {one: [one.ask([f"one {i}"]) for i in range(50)], two: [two.ask([f"two {i}"]) for i in range(50)]}
        for each, asked in ids.items():
            assert sorted(each.receive()[0].id for _ in asked) == asked


def test_nothing_is_left_of_a_stopped_daemon(socket_folder: Path, tmp_path: Path) -> None:
    with running_daemon(socket_folder, models=[model(stub_folder(tmp_path / "m"))]) as running:
        with running.client() as client:
            client.embed(["hello"])
        below = running.descendants()
        assert len(below) == 3
        assert running.stop() == 0
        assert all(is_gone(process) for process in below)
        assert not (socket_folder / "s").exists()


def test_a_second_daemon_at_the_same_endpoint_is_refused(daemon: RunningDaemon, tmp_path: Path) -> None:
    second = RunningDaemon(daemon.folder, {"models": [model(stub_folder(tmp_path / "m"))]})
    assert second.process.wait(seconds(10)) != 0
    assert "already" in second.output()
    with daemon.client() as client:
        assert client.embed(["still here"]).shape == (1, 8)


def test_killed_worker_loses_no_request(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.embed(["warm"])
        victim = daemon.named("ed-worker")[0]
        asked = [client.ask([f"text {i}", "stall 0.02"]) for i in range(20)]
        kill(victim.pid)
        answers = [client.receive()[0] for _ in asked]
    assert sorted(answer.id for answer in answers) == asked
    assert all(isinstance(answer, Vectors) for answer in answers)


@pytest.mark.parametrize("victim", ["ed-template", "ed-fork-server"])
def test_killed_parent_of_workers_loses_no_request(daemon: RunningDaemon, victim: str) -> None:
    with daemon.client() as client:
        client.embed(["warm"])
        old = daemon.descendants()
        asked = [client.ask([f"text {i}", "stall 0.02"]) for i in range(20)]
        kill(daemon.named(victim)[0].pid)
        answers = [client.receive()[0] for _ in asked]
        assert all(isinstance(answer, Vectors) for answer in answers), answers
        wait_until(lambda: sum(is_gone(process) for process in old) >= 2, describe=daemon.output)


def test_request_that_kills_two_workers_is_refused_and_its_neighbours_are_too(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.embed(["warm"])
        good = [client.ask([f"good {i}"]) for i in range(10)]
        bad = client.ask(["crash now"])
        good += [client.ask([f"good {i}"]) for i in range(10)]
        answers = {answer.id: answer for answer, _ in (client.receive() for _ in range(21))}
    convicted = answers[bad]
    assert isinstance(convicted, ErrorAnswer)
    assert convicted.code == "poisoned"
    assert all(isinstance(answers[each], Vectors) for each in good)


def test_a_model_is_loaded_once_for_all_its_workers_and_restarts(socket_folder: Path, tmp_path: Path) -> None:
    folder = stub_folder(tmp_path / "m")
    models = [model(folder, workers={"min": 3, "max": 3})]
    with running_daemon(socket_folder, models=models) as running, running.client(timeout_seconds=30) as client:
        client.load("stub")
        wait_until(lambda: len(running.named("ed-worker")) == 3, describe=running.output)
        window, sent, received = 64, 0, 0
        total = 5000
        while received < total:
            while sent < total and sent - received < window:
                client.ask([f"text {sent}"])
                sent += 1
            answer, _ = client.receive()
            assert isinstance(answer, Vectors), answer
            received += 1
            if received in (1000, 3000):
                kill(running.named("ed-worker")[0].pid)
        assert len(stub_loads(folder)) == 1
        assert client.status()["models"][0]["loads"] == 1


def test_unloading_gives_every_lease_but_the_fork_servers_back(socket_folder: Path, tmp_path: Path) -> None:
    models = [model(stub_folder(tmp_path / "m"))]
    with running_daemon(socket_folder, models=models) as running, running.client() as client:
        client.embed(["hello"])
        assert isinstance(client.unload("stub"), Document)
        leases = [lease["holder"] for lease in client.status()["memory"]["leases"]]
        assert leases == ["fork-server"]
        assert client.embed(["again"]).shape == (1, 8)


def test_idle_model_goes_after_its_keep_alive(socket_folder: Path, tmp_path: Path) -> None:
    models = [model(stub_folder(tmp_path / "m"), keep_alive_seconds=0.3)]
    with running_daemon(socket_folder, models=models) as running, running.client() as client:
        client.embed(["hello"])
        wait_until(lambda: not running.named("ed-template"), describe=running.output)


@pytest.mark.parametrize(("load", "code"), [("fail", "model_corrupt"), ("raise", "load_failed")])
def test_model_that_cannot_be_loaded_says_why_and_others_do_not_notice(
    socket_folder: Path, tmp_path: Path, load: str, code: str
) -> None:
    models = [model(stub_folder(tmp_path / "good"), "good"), model(stub_folder(tmp_path / "bad", load=load), "bad")]
    with running_daemon(socket_folder, models=models) as running, running.client(timeout_seconds=20) as client:
        error = client.embed_error(["hello"], model="bad", deadline_ms=15_000)
        assert error.code == code, error
        assert client.embed(["hello"], model="good").shape == (1, 8)


def test_model_whose_load_crashes_is_refused_with_the_cause_and_others_do_not_notice(
    socket_folder: Path, tmp_path: Path
) -> None:
    models = [model(stub_folder(tmp_path / "good"), "good"), model(stub_folder(tmp_path / "bad", load="crash"), "bad")]
    with running_daemon(socket_folder, models=models) as running, running.client() as client:
        errors = []

        def is_backing_off() -> bool:
            errors.append(client.embed_error(["hello"], model="bad", deadline_ms=200))
            return errors[-1].code == "backing_off"

        wait_until(is_backing_off, 15, describe=running.output)
        assert {error.code for error in errors} <= {"expired", "backing_off"}, "it waits for a start, or is refused"
        assert errors[-1].cause == ("the template of model 'bad' aborted (SIGABRT)",)
        assert errors[-1].retry_after_ms is not None
        assert client.embed(["hello"], model="good").shape == (1, 8)


def test_spawned_workers_serve_as_forked_ones_do(socket_folder: Path, tmp_path: Path) -> None:
    models = [model(stub_folder(tmp_path / "m"))]
    with running_daemon(socket_folder, models=models, start_method="spawn") as running, running.client() as client:
        first = client.embed(["hello"])
        kill(running.named("ed-worker")[0].pid)
        assert np.array_equal(client.embed(["hello"]), first)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.parametrize("work", ["hello", "hold gil 30", "stall 30"])
def test_nobody_survives_a_killed_supervisor(socket_folder: Path, tmp_path: Path, start_method: str, work: str) -> None:
    models = [model(stub_folder(tmp_path / "m"))]
    with running_daemon(socket_folder, models=models, start_method=start_method) as running, running.client() as client:
        client.embed(["warm"])
        client.ask([work])
        wait_until(lambda: work == "hello" or client.status()["workers"][0]["in_flight"] == 1, describe=running.output)
        below = running.descendants()
        running.kill_supervisor()
        wait_until(lambda: all(is_gone(process) for process in below), 1.0, describe=lambda: below)


def test_model_that_is_broken_from_the_start_is_shown_as_failed_and_served_once_it_is_mended(
    socket_folder: Path, tmp_path: Path
) -> None:
    folder = stub_folder(tmp_path / "m")
    config = (folder / "config.json").read_text()
    (folder / "config.json").unlink()
    with running_daemon(socket_folder, models=[model(folder)]) as running, running.client() as client:
        (shown,) = client.models()["models"]
        assert shown["state"] == "failed"
        assert shown["error"]["code"] == "model_corrupt"
        assert client.embed_error(["hello"]).code == "model_corrupt"
        (folder / "config.json").write_text(config)
        wait_until(lambda: not client.status()["models"][0]["retry_seconds"], describe=running.output)
        assert client.embed(["hello"]).shape == (1, 8)
        assert client.models()["models"][0]["state"] == "ready"
