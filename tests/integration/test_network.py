"""Clients over the network: CURVE keys on both sides, and what a peer with a key can make the daemon hold."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from click.testing import CliRunner, Result

from embeddaemon import Client
from embeddaemon.cli.acting import acting_as_owner_of
from embeddaemon.cli.app import cli
from embeddaemon.client._actions import Patience
from embeddaemon.errors import ConfigError, DaemonUnreachable, Forbidden
from embeddaemon.protocol import keys
from tests.support.daemon import RunningDaemon, running_daemon, stub_folder
from tests.support.sockets import short_folder
from tests.support.waiting import seconds, wait_until

MIB = 1 << 20


def new_key(path: Path) -> keys.KeyPair:
    public, secret = zmq.curve_keypair()
    pair = keys.KeyPair(public.decode(), secret.decode())
    keys.write_pair(path, pair)
    return pair


def free_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


class Place:
    """A daemon at a tcp endpoint, and the files of its keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = new_key(folder / "daemon.key")
        self.mine = new_key(folder / "client.key")
        keys.write_public(folder / "clients" / "laptop.pub", self.mine.public)
        self.endpoint = free_endpoint()
        self.access = {
            "tcp_endpoint": self.endpoint,
            "key_file": str(folder / "daemon.key"),
            "client_keys": str(folder / "clients"),
        }

    def client(self, *, server_key: str | None = None, key_file: str = "client.key", timeout: float = 10.0) -> Client:
        return Client(
            self.endpoint,
            timeout,
            server_key=server_key or self.server.public,
            key_file=self.folder / key_file,
        )


def models(folder: Path) -> list[dict[str, Any]]:
    return [{"name": "stub", "source": f"path:{stub_folder(folder)}"}]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def daemon(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    settings: dict[str, Any] = {"models": models(tmp_path_factory.mktemp("model")), "access": place.access}
    with short_folder() as folder, running_daemon(folder, **settings) as running:
        yield running


def test_client_with_an_allowed_key_is_served_beside_local_ones(daemon: RunningDaemon, place: Place) -> None:
    with place.client() as client, daemon.client() as local:
        assert client.embed(["over the network"]).shape == (1, 8)
        assert local.embed(["local"]).shape == (1, 8)
        assert client.embed(["text"] * 5000).shape == (5000, 8)
        network = local.status()["clients"]["network"]
        assert network["connections"] == 1
        assert network["counts"]["accepted"] >= 1


def test_client_with_a_key_may_not_load_or_unload(daemon: RunningDaemon, place: Place) -> None:
    with place.client() as client, pytest.raises(Forbidden):
        client.unload("stub")


def test_key_that_is_not_allowed_is_refused_at_once_until_it_is(daemon: RunningDaemon, place: Place) -> None:
    stranger = new_key(place.folder / "stranger.key")
    started = time.monotonic()
    with place.client(key_file="stranger.key") as client, pytest.raises(Forbidden, match="keys allow"):
        client.embed(["a text"])
    assert time.monotonic() - started < seconds(2)
    keys.write_public(place.folder / "clients" / "stranger.pub", stranger.public)
    with place.client(key_file="stranger.key") as client:
        assert client.embed(["a text"]).shape == (1, 8)


def test_connection_whose_key_was_taken_away_ends_at_the_next_reload(socket_folder: Path, tmp_path: Path) -> None:
    place = Place(tmp_path)
    file = tmp_path / "embeddaemon.toml"
    access = [f'{key} = "{value}"' for key, value in place.access.items()]
    file.write_text("\n".join(["[access]", *access, "[models.one]", f'source = "path:{stub_folder(tmp_path / "m")}"']))
    other = new_key(place.folder / "other.key")
    keys.write_public(place.folder / "clients" / "other.pub", other.public)
    with (
        running_daemon(socket_folder, config_file=str(file)) as daemon,
        daemon.client() as local,
        place.client() as client,
        place.client(key_file="other.key") as stays,
    ):
        client.embed(["a text"])
        stays.embed(["a text"])
        (place.folder / "clients" / "laptop.pub").unlink()
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: local.status()["clients"]["network"]["connections"] == 1, describe=daemon.output)
        with pytest.raises(Forbidden, match="keys allow"):
            client.embed(["a text"])
        stays.embed(["a text"])
        assert local.status()["clients"]["network"]["counts"]["accepted"] == 2, "the other one had to come again"


def test_wrong_key_of_the_daemon_is_told_in_bounded_time(daemon: RunningDaemon, place: Place) -> None:
    with place.client(server_key=place.mine.public) as client, pytest.raises(Forbidden, match="server_key"):
        client.embed(["a text"])


def test_connection_without_keys_gets_nothing(daemon: RunningDaemon, place: Place) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as bare:
        bare.linger = 0
        monitor = bare.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        bare.connect(place.endpoint)
        bare.send_multipart([b"hello", b""])
        assert monitor.poll(int(seconds(5) * 1000))
        assert not bare.poll(0)
        bare.disable_monitor()
        monitor.close()


def test_endpoint_where_nobody_listens_is_told_in_bounded_time(place: Place) -> None:
    key_file, patience = place.folder / "client.key", Patience(hello=0.5)
    nobody = Client(free_endpoint(), server_key=place.server.public, key_file=key_file, patience=patience)
    started = time.monotonic()
    with nobody as client, pytest.raises(DaemonUnreachable, match="tcp_endpoint"):
        client.embed(["a text"])
    assert time.monotonic() - started < seconds(4)


def test_client_goes_on_when_its_daemon_was_started_again(socket_folder: Path, tmp_path: Path) -> None:
    place = Place(tmp_path / "keys")
    settings: dict[str, Any] = {"models": models(tmp_path / "m"), "access": place.access}
    with place.client(timeout=seconds(30)) as client:
        for _ in range(2):
            with running_daemon(socket_folder, **settings):
                assert client.embed(["a text"]).shape == (1, 8)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "embeddaemon keys show"),
        ({"server_key": "x" * 40}, "embeddaemon keys new"),
        ({"server_key": "short", "key_file": "k"}, "40"),
    ],
)
def test_client_without_keys_is_told_which(given: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Client("tcp://127.0.0.1:7997", **given)


def test_key_file_that_others_may_read_is_not_used(place: Place) -> None:
    pair = new_key(place.folder / "loose.key")
    (place.folder / "loose.key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        place.client(key_file="loose.key")
    assert pair.secret not in repr(pair)


@pytest.mark.parametrize(("missing", "word"), [("key_file", "keys new"), ("client_keys", "keys allow")])
def test_daemon_does_not_start_on_tcp_without_keys(
    socket_folder: Path, tmp_path: Path, missing: str, word: str
) -> None:
    place = Place(tmp_path / "keys")
    access = place.access | {missing: str(tmp_path / "nothing")}
    refused = RunningDaemon(socket_folder, {"models": models(tmp_path / "m"), "access": access})
    assert refused.process.wait(seconds(10)) != 0
    assert word in refused.output()
    assert str(tmp_path / "nothing") in refused.output().partition(word)[2], "the command does not say where"
    assert not (socket_folder / "s").exists()


def test_message_that_a_peer_with_a_key_never_ends_costs_it_its_connection(daemon: RunningDaemon, place: Place) -> None:
    process = psutil.Process(daemon.process.pid)
    with zmq.Context() as context, context.socket(zmq.DEALER) as greedy, place.client() as client:
        greedy.linger = 0
        greedy.sndhwm = 0
        greedy.curve_serverkey = place.server.public.encode()
        greedy.curve_publickey, greedy.curve_secretkey = place.mine.public.encode(), place.mine.secret.encode()
        greedy.connect(place.endpoint)
        client.embed(["warm"])
        before = process.memory_full_info().uss
        part = bytes(MIB)
        greedy.send(part, zmq.SNDMORE)
        for _ in range(399):
            greedy.send(part, zmq.SNDMORE)
        greedy.send(b"the end")
        peak = before

        def is_cut_off() -> bool:
            nonlocal peak
            peak = max(peak, process.memory_full_info().uss)
            return "message_unfinished" in daemon.output()

        wait_until(is_cut_off, 20, describe=daemon.output)
        assert client.embed(["meanwhile"]).shape == (1, 8)
        # The bound is 24 MiB. What libzmq's thread takes in between two looks comes to it, more of it when we get no
        # processor for a while; 400 MiB are sent.
        assert peak - before < 128 * MIB


def raw_connections(place: Place, count: int) -> list[socket.socket]:
    """Connections of a peer that has no key and says nothing."""
    host, _, port = place.endpoint.removeprefix("tcp://").rpartition(":")
    return [socket.create_connection((host, int(port)), timeout=seconds(5)) for _ in range(count)]


@contextlib.contextmanager
def few_descriptors(place: Place, folder: Path) -> Iterator[RunningDaemon]:
    launcher = ("/bin/sh", "-c", 'ulimit -n 160; exec "$@"', "sh")
    settings: dict[str, Any] = {"models": models(place.folder / "m"), "access": place.access}
    with running_daemon(folder, launcher=launcher, **settings) as running:
        yield running


def test_flood_of_the_network_endpoint_takes_nothing_from_those_who_are_served(
    socket_folder: Path, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    with few_descriptors(place, socket_folder) as daemon, daemon.client() as local, contextlib.ExitStack() as stack:
        client = stack.enter_context(place.client())
        assert [each.name for each in client.models()] == ["stub"]
        for each in raw_connections(place, 500):
            stack.enter_context(each)
        # The model is not loaded yet: its processes start, and their sockets are accepted, while the flood lasts.
        assert local.embed(["during the flood"]).shape == (1, 8)
        assert client.embed(["during the flood"]).shape == (1, 8)
        network = local.status()["clients"]["network"]
        assert network["counts"]["accepted"] == 1, "who was there had to come again"
        assert network["counts"]["refused_connection"] > 400
        assert "few_descriptors" in daemon.output(), "that so few are a risk was not said"

        def may_come_in() -> bool:
            with place.client() as another, contextlib.suppress(DaemonUnreachable, Forbidden):
                return another.embed(["after the flood"]).shape == (1, 8)
            return False

        wait_until(may_come_in, 10, describe=daemon.output)  # silent ones are closed after 2 s


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_keys_are_made_shown_and_allowed_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    made = run("keys", "new")
    assert made.exit_code == 0, made.output
    public = made.stdout.strip()
    assert keys.read_pair(tmp_path / "daemon.key").public == public
    assert (tmp_path / "daemon.key").stat().st_mode & 0o777 == 0o600
    assert run("keys", "new").exit_code == 2  # one that is there is never lost
    theirs = run("keys", "new", str(tmp_path / "mine.key")).stdout.strip()
    assert run("keys", "list").stderr == f"nobody is allowed in {tmp_path}/clients\n"
    assert run("keys", "allow", "laptop", theirs).exit_code == 0
    assert run("keys", "allow", "twice", theirs).exit_code == 2
    assert run("keys", "allow", "../escape", public).exit_code == 2
    assert keys.allowed(tmp_path / "clients") == {theirs: "laptop"}
    assert run("keys", "show").stdout.strip() == public
    assert run("keys", "list").stdout == f"{theirs} laptop\n"
    assert run("keys", "remove", "../daemon").exit_code == 2
    assert "embeddaemon reload" in run("keys", "remove", "laptop").stderr
    assert keys.allowed(tmp_path / "clients") == {}
    assert run("keys", "remove", "laptop").exit_code == 2


def test_key_that_does_not_fit_on_the_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    pair = new_key(tmp_path / "before.key")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(ConfigError, match=r"mine\.key cannot be written"):
            keys.write_pair(tmp_path / "mine.key", pair)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["before.key"]
    keys.write_pair(tmp_path / "mine.key", pair)
    assert keys.read_pair(tmp_path / "mine.key") == pair


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts as another user")
SOMEBODY = 10_001


@pytest.fixture
def their_folder() -> Iterator[Path]:
    """A folder of another user, and the way to it open."""
    with short_folder() as folder:
        folder.chmod(0o711)
        theirs = folder / "state"
        theirs.mkdir(mode=0o750)
        os.chown(theirs, SOMEBODY, SOMEBODY)
        yield theirs


@needs_root
def test_what_root_writes_for_another_users_daemon_belongs_to_that_user(
    their_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(their_folder))
    public = run("keys", "new").stdout.strip()
    assert run("keys", "allow", "laptop", public).exit_code == 0
    found = {path.name: path.stat() for path in their_folder.rglob("*")}
    assert {name: (one.st_uid, one.st_gid, one.st_mode & 0o777) for name, one in found.items()} == {
        "daemon.key": (SOMEBODY, SOMEBODY, 0o600),
        "clients": (SOMEBODY, SOMEBODY, 0o700),
        "laptop.pub": (SOMEBODY, SOMEBODY, 0o644),
    }
    assert run("keys", "show", str(their_folder / "daemon.key")).stdout.strip() == public
    assert run("keys", "list").stdout == f"{public} laptop\n"
    assert run("keys", "remove", "laptop").exit_code == 0
    assert os.geteuid() == 0


@needs_root
def test_link_in_another_users_folder_leads_root_nowhere(their_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(their_folder))
    (their_folder.parent / "roots").mkdir(mode=0o700)
    (their_folder / "clients").symlink_to(their_folder.parent / "roots")
    assert run("keys", "allow", "laptop", "x" * 40).exit_code != 0
    assert list((their_folder.parent / "roots").iterdir()) == []


@needs_root
def test_folder_of_keys_that_the_daemon_may_not_read_is_said_and_not_taken_for_an_empty_one(their_folder: Path) -> None:
    keys.write_public(their_folder / "clients" / "laptop.pub", "x" * 40)
    advice = rf"{their_folder}/clients cannot be read.*chown -R {SOMEBODY} {their_folder}/clients"
    with acting_as_owner_of(their_folder), pytest.raises(ConfigError, match=advice):
        keys.allowed(their_folder / "clients")
