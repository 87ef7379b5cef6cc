"""SIGHUP and ``reload`` of real daemons: the configuration changes under load, and every request is answered."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from embeddaemon import Busy, Client, ConfigError, UnknownModel
from embeddaemon.cli.app import cli
from embeddaemon.cli.console import Exit
from embeddaemon.supervisor.connections import zmtp
from tests.support.checkpoints import TinyBert
from tests.support.daemon import RunningDaemon, running_daemon, stub_folder
from tests.support.embedding import embedder_of
from tests.support.raw_peer import RawPeer, as_user, frame
from tests.support.waiting import seconds, wait_until

TEXT = "the red planet"
GUEST = 61_236


def model(name: str, folder: Path, **keys: object) -> str:
    lines = [f"[models.{name}]", f'source = "path:{folder}"']
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in keys.items())])


class Configured:
    """A daemon and the file that it is configured by."""

    def __init__(self, running: RunningDaemon, path: Path) -> None:
        self.running = running
        self.path = path

    def write(self, *tables: str) -> None:
        self.path.write_text("\n".join(tables))

    def reloads(self) -> int:
        reloads: int = self.running.status()["config"]["reloads"]
        return reloads

    def hang_up(self, *tables: str) -> None:
        """The file says something else, and the daemon is told; returns when it is in force."""
        before = self.reloads()
        self.write(*tables)
        self.running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.reloads() > before, 10, describe=self.running.output)


@contextmanager
def configured(socket_folder: Path, tmp_path: Path, *tables: str, engine: str = "stub") -> Iterator[Configured]:
    path = tmp_path / "embeddaemon.toml"
    path.write_text("\n".join(tables))
    with running_daemon(socket_folder, config_file=str(path), engine=engine) as running:
        yield Configured(running, path)


@contextmanager
def asked_all_the_time(endpoint: str, name: str, answers: list[np.ndarray], clients: int = 4) -> Iterator[None]:
    """Clients that ask until the block ends; whatever goes wrong is raised at its end."""
    is_over = threading.Event()
    failures: list[BaseException] = []

    def ask(number: int) -> None:
        try:
            with Client(endpoint, timeout=seconds(20)) as client:
                while not is_over.is_set():
                    answers.append(client.embed([TEXT, f"text {number}"], model=name)[0])
        except BaseException as error:  # noqa: BLE001 - a thread's boundary
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert not failures, failures


def pids(running: RunningDaemon) -> set[int]:
    return {worker["pid"] for worker in running.status()["workers"]}


def is_made_anew(running: RunningDaemon, before: set[int]) -> Callable[[], bool]:
    return lambda: bool(now := pids(running)) and not now & before


def test_configuration_changes_again_and_again_under_load_and_no_request_is_lost(
    socket_folder: Path, tmp_path: Path
) -> None:
    one, two = stub_folder(tmp_path / "one"), stub_folder(tmp_path / "two")
    answers: list[np.ndarray] = []
    with configured(socket_folder, tmp_path, model("one", one)) as daemon:
        running = daemon.running
        with asked_all_the_time(running.endpoint, "one", answers):
            wait_until(lambda: bool(answers), 10, describe=running.output)
            for budget in (4096, 2048, 1024):
                before = pids(running)
                daemon.hang_up(model("one", one, token_budget=budget))
                wait_until(is_made_anew(running, before), 10, describe=running.output)
            before = pids(running)
            daemon.hang_up(model("one", one, token_budget=1024, keep_alive=60), model("two", two, preload="true"))
            with Client(running.endpoint, timeout=seconds(20)) as client:
                assert client.embed("a", model="two").shape == (8,)
                many = client.embed_stream([f"text {number}" for number in range(2000)], model="two")
                next(many)
                daemon.hang_up(model("one", one, token_budget=1024), "[daemon]", 'log_level = "warning"')
                wait_until(lambda: [each.name for each in client.models()] == ["one"], 10, describe=running.output)
                with pytest.raises(UnknownModel):
                    client.embed("a", model="two")
                many.close()
            wait_until(lambda: len(running.status()["models"]) == 1, 10, describe=running.output)
            assert before <= pids(running), "what needs no new worker gets none"
        status = running.status()
    assert len(answers) > 20
    assert status["requests"]["failed"] == status["requests"]["expired"] == 0
    assert set(status["counts"]) & {"refused.busy", "refused.draining", "refused.backing_off"} == set()


def test_real_model_is_changed_under_load_and_every_vector_is_of_the_old_or_of_the_new_one(
    socket_folder: Path, tmp_path: Path
) -> None:
    folders = {seed: TinyBert(seed=seed).write(tmp_path / f"seed-{seed}") for seed in (1, 2)}
    vectors = {seed: embedder_of(folder).embed([TEXT])[0] for seed, folder in folders.items()}
    answers: list[np.ndarray] = []
    with configured(
        socket_folder, tmp_path, model("tiny", folders[1], precision='"float32"'), engine="torch"
    ) as daemon:

        def serves(seed: int) -> Callable[[], bool]:
            return lambda: bool(answers) and bool(np.abs(answers[-1] - vectors[seed]).max() < 1e-4)

        with asked_all_the_time(daemon.running.endpoint, "tiny", answers, clients=2):
            wait_until(serves(1), 30, describe=daemon.running.output)
            daemon.hang_up(model("tiny", folders[2], precision='"float32"'))
            wait_until(serves(2), 30, describe=daemon.running.output)
        status = daemon.running.status()
    which = [min(vectors, key=lambda seed: np.abs(answer - vectors[seed]).max()) for answer in answers]
    assert which == sorted(which), "from the new one back to the old one"
    assert all(np.abs(answer - vectors[seed]).max() < 1e-4 for answer, seed in zip(answers, which, strict=True))
    assert status["requests"]["failed"] == status["requests"]["refused"] == status["requests"]["expired"] == 0


def test_wrong_configuration_leaves_the_daemon_as_it_is_and_is_told(socket_folder: Path, tmp_path: Path) -> None:
    folder = stub_folder(tmp_path / "one")
    with configured(socket_folder, tmp_path, model("one", folder)) as daemon:
        running = daemon.running
        with Client(running.endpoint, timeout=seconds(20)) as client:
            client.embed("a")
            before = pids(running)
            daemon.write(model("one", folder, keep_alive='"for ever"'))
            running.process.send_signal(signal.SIGHUP)
            wait_until(lambda: client.status()["config"]["error"] is not None, 10, describe=running.output)
            error = client.status()["config"]["error"]
            assert str(daemon.path) in error["message"]
            assert "keep_alive" in error["message"]
            with pytest.raises(ConfigError, match="keep_alive"):
                client.reload()
            done = CliRunner().invoke(cli, ["reload", "--endpoint", running.endpoint])
            assert done.exit_code == Exit.USAGE
            assert "keep_alive" in done.output
            told = f"{daemon.path} is wrong (read again "
            shown = CliRunner().invoke(cli, ["status", "--endpoint", running.endpoint])
            assert f"config    {told}" in shown.output
            assert "running on the old one: " in shown.output
            health = CliRunner().invoke(cli, ["health", "--endpoint", running.endpoint])
            assert health.exit_code == Exit.OK
            assert f"warning: config: {told}" in health.output
            daemon.path.unlink()
            with pytest.raises(ConfigError, match="cannot be read"):
                client.reload()
            assert client.embed("b").shape == (8,)
            assert pids(running) == before
            assert "configuration_wrong" in running.output()


def test_command_says_what_changed_and_what_has_to_wait(socket_folder: Path, tmp_path: Path) -> None:
    one, two = stub_folder(tmp_path / "one"), stub_folder(tmp_path / "two")
    with configured(socket_folder, tmp_path, model("one", one)) as daemon:
        endpoint = daemon.running.endpoint
        daemon.write("[daemon]", 'cache_size = "1MiB"', model("one", one, pinned="true"), model("two", two))
        done = CliRunner().invoke(cli, ["reload", "--endpoint", endpoint])
        assert done.exit_code == Exit.OK, done.output
        assert "added    two" in done.output
        assert "changed  models.one.pinned" in done.output
        assert "daemon.cache_size stays as it is until the daemon is started again" in done.output
        with Client(endpoint, timeout=seconds(20)) as client:
            assert [each.name for each in client.models()] == ["one", "two"]
            assert list(client.status()["config"]["restart_needed"]) == ["daemon.cache_size"]
            assert client.status()["config"]["files"] == [str(daemon.path)]
        daemon.write(model("one", one, pinned="true"), model("two", two))
        done = CliRunner().invoke(cli, ["reload", "--endpoint", endpoint])
        assert done.output == f"read     {daemon.path}\nnothing has changed\n"


@contextmanager
def being(uid: int) -> Iterator[None]:
    """What connects meanwhile is another user's, to the kernel."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_who_may_talk_is_in_force_at_once_and_who_is_taken_off_the_list_is_sent_away(
    socket_folder: Path, tmp_path: Path
) -> None:
    socket_folder.chmod(0o755)
    one, guests = model("one", stub_folder(tmp_path / "one")), f'[access]\nusers = ["{GUEST}"]'
    with configured(socket_folder, tmp_path, one) as daemon:
        endpoint = daemon.running.endpoint

        def embed() -> bytes:
            with Client(endpoint, timeout=seconds(20)) as client:
                return str(client.embed("a text").shape).encode()

        with as_user(GUEST, (GUEST,), embed) as outcome:
            assert outcome.startswith(b"DaemonUnreachable"), outcome  # the file's permissions keep him out
        daemon.hang_up(guests, one)
        with as_user(GUEST, (GUEST,), embed) as outcome:
            assert outcome == b"(8,)"
        with being(GUEST):
            peer = RawPeer(socket_folder / "s")
        with peer:
            request = frame(b"\x83\xa1v\x01\xa2id\x07\xa2op\xa6models", more=True) + frame(b"")
            peer.socket.sendall(request)
            wait_until(lambda: f"uid:{GUEST}" in daemon.running.status()["clients"]["of_users"])
            daemon.hang_up(one)
            assert peer.read_until_closed().startswith(zmtp.WELCOME)
        assert (socket_folder / "s").stat().st_mode & 0o777 == 0o660
        (socket_folder / "s").chmod(0o666)  # reached, and refused by who he is
        with as_user(GUEST, (GUEST,), embed) as outcome:
            assert outcome.startswith(b"Forbidden"), outcome
        assert "no_longer_allowed" in daemon.running.output()


def test_quotas_are_in_force_at_once_and_a_name_that_nobody_has_changes_nothing(
    socket_folder: Path, tmp_path: Path
) -> None:
    one = model("one", stub_folder(tmp_path / "one"))
    with configured(socket_folder, tmp_path, one) as daemon, daemon.running.client() as client:
        daemon.hang_up("[access]", 'tcp_endpoint = "tcp://127.0.0.1:1"', "[per_user]", "requests = 1", one)
        client.ask(["stall 0.3"])
        assert client.embed_error(["one more"]).code == "busy"
        client.receive()
        assert list(client.status()["config"]["restart_needed"]) == ["access.tcp_endpoint"]
        daemon.write("[per_user]", "connections = 1", one)
        with Client(daemon.running.endpoint, timeout=seconds(20)) as other:
            other.reload()
            other.embed("who is there stays")
        with Client(daemon.running.endpoint, timeout=0.5) as another, pytest.raises(Busy, match="connections"):
            another.embed("one too many")
        daemon.write("[access]", 'users = ["nobody-of-this-name"]', one)
        daemon.running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: client.status()["config"]["error"] is not None, 10, describe=daemon.running.output)
        assert "no user 'nobody-of-this-name'" in client.status()["config"]["error"]["message"]


def test_forced_load_replaces_the_workers_while_they_are_asked(socket_folder: Path, tmp_path: Path) -> None:
    folder = stub_folder(tmp_path / "one")
    answers: list[np.ndarray] = []
    with configured(socket_folder, tmp_path, model("one", folder)) as daemon:
        endpoint = daemon.running.endpoint
        with asked_all_the_time(endpoint, "one", answers):
            wait_until(lambda: bool(answers), 10, describe=daemon.running.output)
            for _ in range(3):
                before = pids(daemon.running)
                done = CliRunner().invoke(cli, ["load", "one", "--force", "--endpoint", endpoint])
                assert done.exit_code == Exit.OK, done.output
                wait_until(is_made_anew(daemon.running, before), 10, describe=daemon.running.output)
        status = daemon.running.status()
    assert status["requests"]["failed"] == status["requests"]["refused"] == status["requests"]["expired"] == 0
