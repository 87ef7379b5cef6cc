"""Who may talk to the daemon, by uid and group, and what a peer can make it hold: real sockets, other users."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from click.testing import CliRunner

from embeddaemon import Client
from embeddaemon.cli.app import cli
from embeddaemon.errors import UnsafeModel
from embeddaemon.protocol import link
from embeddaemon.protocol.messages import ErrorAnswer, Vectors
from embeddaemon.supervisor.connections import zmtp
from tests.support.daemon import RunningDaemon, running_daemon, stub_folder
from tests.support.raw_peer import RawPeer, as_user, frame
from tests.support.sockets import short_folder
from tests.support.waiting import seconds, wait_until

STRANGER = 61_234
GROUP = 61_235
MIB = 1 << 20

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


def models(folder: Path) -> list[dict[str, Any]]:
    return [{"name": "stub", "source": f"path:{stub_folder(folder)}"}]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    settings: dict[str, Any] = {"models": models(tmp_path_factory.mktemp("model")), "access": {"groups": [str(GROUP)]}}
    with short_folder() as folder:
        folder.chmod(0o755)
        with running_daemon(folder, **settings) as running:
            yield running


def embed_code(endpoint: str) -> bytes:
    """The outcome of an ordinary client's call."""
    with Client(endpoint, timeout=seconds(5)) as client:
        client.embed(["a text"])
    return b"served"


@needs_root
def test_stranger_is_told_at_once_that_he_is_forbidden_and_what_to_do(daemon: RunningDaemon) -> None:
    with as_user(STRANGER, (STRANGER,), lambda: embed_code(daemon.endpoint)) as outcome:
        assert outcome.startswith(b"Forbidden"), outcome
        assert b"`usermod -aG GROUP USER`" in outcome
        assert b"users in [access]" in outcome


@needs_root
def test_stranger_is_told_the_same_on_the_command_line(daemon: RunningDaemon) -> None:
    arguments = ["embed", "--endpoint", daemon.endpoint, "a text"]
    assert CliRunner().invoke(cli, arguments).exit_code == 0  # and all is imported that a stranger may not read

    def run() -> bytes:
        done = CliRunner().invoke(cli, arguments)
        return f"{done.exit_code} {done.output}".encode()

    with as_user(STRANGER, (STRANGER,), run) as outcome:
        assert int(outcome.split()[0]) != 0
        assert b"`usermod -aG GROUP USER`" in outcome


@needs_root
def test_workers_socket_is_closed_to_every_other_user(daemon: RunningDaemon) -> None:
    def connect() -> bytes:
        with RawPeer(daemon.folder / "s.w"):
            return b"connected"

    with as_user(65_534, (GROUP,), connect) as outcome:
        assert outcome.startswith(b"PermissionError"), outcome


def test_process_of_our_own_user_at_the_workers_socket_takes_no_workers_place(
    socket_folder: Path, tmp_path: Path
) -> None:
    with (
        running_daemon(socket_folder, models=models(tmp_path / "m")) as daemon,
        daemon.client() as client,
        zmq.Context() as context,
        ExitStack() as stack,
    ):
        early, late = (stack.enter_context(context.socket(zmq.DEALER)) for _ in range(2))
        for stranger in (early, late):
            stranger.linger = 0
        first = link.routing_id(0, 1)
        lies: list[link.FromWorker] = [
            link.Drained(0, 1),
            link.LoadFailed(0, 1, {"code": "corrupt_model", "message": "so they say"}),
        ]
        early.routing_id = first  # what it would be, were there no secret; the worker is not there yet
        early.connect(f"{daemon.endpoint}.w")
        for lie in lies:
            early.send(link.encode_from_worker(lie))
        early.send_multipart([b"garbage", bytes(1000)])
        wait_until(lambda: "not_a_worker_of_ours" in daemon.output(), describe=daemon.output)
        vector = client.embed(["a text"])
        late.connect(f"{daemon.endpoint}.w")
        for serial in range(20):
            late.send(link.encode_from_worker(link.Result(0, 1, serial, "failed", 1, 1, 1, 1)))
        asked = client.embed(["a text", "another"])
        assert (asked[0] == vector[0]).all()
        assert not early.poll(0), "what was meant for a worker"
        (worker,) = client.status()["workers"]
        assert (worker["worker"], worker["incarnation"], worker["state"]) == (0, 1, "ready")
        assert "bad_worker_message" in daemon.output()


@needs_root
@pytest.mark.parametrize("groups", [(GROUP,), (STRANGER, GROUP)], ids=["its group", "a supplementary group"])
def test_member_of_an_allowed_group_is_served(daemon: RunningDaemon, groups: tuple[int, ...]) -> None:
    with as_user(STRANGER, groups, lambda: embed_code(daemon.endpoint)) as outcome:
        assert outcome == b"served"


@needs_root
def test_guest_may_not_load_or_unload(daemon: RunningDaemon) -> None:
    def unload() -> bytes:
        with daemon.client() as client:
            answer = client.unload("stub")
            assert isinstance(answer, ErrorAnswer)
            return answer.code.encode()

    with as_user(STRANGER, (GROUP,), unload) as outcome:
        assert outcome == b"forbidden"


@needs_root
def test_refused_user_gets_a_handshake_error_that_every_zmtp_client_understands(daemon: RunningDaemon) -> None:
    def handshake() -> bytes:
        with RawPeer(daemon.folder / "s", greets=False) as peer:
            return peer.read_until_closed()

    with as_user(STRANGER, (STRANGER,), handshake) as outcome:
        assert outcome == zmtp.refusal("400")


@needs_root
def test_user_whom_the_permissions_keep_out_is_told_which_group_is_missing(socket_folder: Path) -> None:
    path = socket_folder / "s"
    socket_folder.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0o660)
        os.chown(path, -1, GROUP)
        with as_user(STRANGER, (STRANGER,), lambda: embed_code(f"ipc://{path}")) as outcome:
            assert outcome.startswith(b"DaemonUnreachable")
            assert f"usermod -aG {GROUP}".encode() in outcome
    path.unlink()


def private_mib(daemon: RunningDaemon) -> float:
    return psutil.Process(daemon.process.pid).memory_full_info().uss / MIB


def test_message_that_is_never_ended_takes_no_memory_and_nobody_waits_for_it(daemon: RunningDaemon) -> None:
    with daemon.client() as client, RawPeer(daemon.folder / "s") as peer:
        client.embed(["warm"])
        before = private_mib(daemon)
        part = frame(bytes(MIB), more=True)
        for sent in range(400):
            try:
                peer.socket.sendall(part)
            except OSError:
                break
            if sent % 50 == 0:
                assert client.embed(["meanwhile"]).shape == (1, 8)
        assert private_mib(daemon) - before < 16
        assert "protocol_violation" in daemon.output()


def test_announced_frame_takes_no_memory_before_it_comes(daemon: RunningDaemon) -> None:
    before = private_mib(daemon)
    with ExitStack() as stack:
        for _ in range(20):
            peer = stack.enter_context(RawPeer(daemon.folder / "s"))
            peer.socket.sendall(frame(b"header", more=True) + b"\x02" + (8 * MIB).to_bytes(8, "big") + b"x")
        with daemon.client() as client:
            assert client.embed(["meanwhile"]).shape == (1, 8)
            assert private_mib(daemon) - before < 8


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        zmtp.GREETING[:10] + b"\x01" + bytes(53),
        zmtp.GREETING.replace(b"NULL", b"PLAIN"[:4]),
        zmtp.GREETING + frame(b"no READY"),
        zmtp.GREETING + zmtp.command(b"READY", b"\x0bSocket-Type\0\0\0\x03SUB"),
        zmtp.GREETING + zmtp.command(b"READY", b"\xffcut"),
        zmtp.GREETING + b"\xf8\x01x",
    ],
    ids=["http", "version 1", "mechanism", "message first", "socket type", "cut property", "flags"],
)
def test_peer_that_does_not_speak_our_protocol_is_closed(daemon: RunningDaemon, sent: bytes) -> None:
    with RawPeer(daemon.folder / "s", greets=False) as peer:
        peer.socket.sendall(sent)
        assert peer.read_until_closed() == zmtp.WELCOME


def test_silent_peer_is_closed_when_the_handshake_has_taken_too_long(daemon: RunningDaemon) -> None:
    with RawPeer(daemon.folder / "s", greets=False) as peer:
        assert peer.read_until_closed() == zmtp.WELCOME


def test_ping_is_answered(daemon: RunningDaemon) -> None:
    with RawPeer(daemon.folder / "s") as peer:
        peer.socket.sendall(zmtp.command(b"PING", b"\0\x0ahello"))
        answer = zmtp.WELCOME + zmtp.command(b"PONG", b"hello")
        assert b"".join(peer.socket.recv(1) for _ in answer) == answer


def test_answers_that_nobody_takes_do_not_keep_others_waiting(daemon: RunningDaemon) -> None:
    with daemon.client() as reader, RawPeer(daemon.folder / "s") as deaf:
        request = frame(b"\x83\xa1v\x01\xa2id\x07\xa2op\xa6models", more=True) + frame(b"")
        deaf.socket.sendall(request * 2000)
        assert reader.embed(["still served"]).shape == (1, 8)


@contextmanager
def few_descriptors(folder: Path, tmp_path: Path, limit: int) -> Iterator[RunningDaemon]:
    launcher = ("/bin/sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh")
    with running_daemon(folder, launcher=launcher, models=models(tmp_path / "m")) as running:
        yield running


@pytest.mark.parametrize("limit", [64, 256])
def test_flood_of_connections_leaves_the_daemon_and_its_clients_alone(
    socket_folder: Path, tmp_path: Path, limit: int
) -> None:
    with few_descriptors(socket_folder, tmp_path, limit) as daemon, daemon.client() as client:
        client.embed(["warm"])
        with ExitStack() as stack:
            for _ in range(2 * limit):
                stack.enter_context(RawPeer(socket_folder / "s"))
            assert client.embed(["during the flood"]).shape == (1, 8)
            status = client.status()["clients"]
            assert status["connections"] <= status["limit"] < limit * 7 // 10
            assert status["counts"]["refused_connection"] > 0
        with daemon.client() as another:
            wait_until(lambda: client.status()["clients"]["connections"] <= 2, describe=daemon.output)
        with daemon.client() as another:
            assert another.embed(["after the flood"]).shape == (1, 8)


def test_daemon_takes_all_descriptors_that_it_may_have(socket_folder: Path, tmp_path: Path) -> None:
    launcher = ("/bin/sh", "-c", 'ulimit -S -n 128; exec "$@"', "sh")
    with running_daemon(socket_folder, launcher=launcher, models=models(tmp_path / "m")) as running:
        soft, hard = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
        assert soft == hard


def test_client_that_leaves_is_noticed_at_once(daemon: RunningDaemon) -> None:
    with daemon.client() as other:
        other.embed(["warm"])
        with daemon.client() as client:
            client.ask(["stall 5"])
            wait_until(lambda: other.status()["open"] == 1)
        wait_until(lambda: other.status()["open"] == 0, 0.9)


def test_second_request_beyond_a_users_quota_is_busy_with_the_numbers(socket_folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"models": models(tmp_path / "m"), "per_user": {"requests": 2}}
    with running_daemon(socket_folder, **settings) as running, running.client() as client:
        asked = [client.ask(["stall 0.3"]) for _ in range(2)]
        refused = client.embed_error(["one more"])
        assert refused.code == "busy"
        assert refused.details == {"user": f"uid:{os.getuid()}", "quota": "requests", "used": 2, "limit": 2}
        assert refused.retry_after_ms
        answers = [client.receive()[0] for _ in asked]
        assert all(isinstance(answer, Vectors) for answer in answers)
        (user,) = client.status()["users"]
        assert (user["requests"], user["refused"]) == (0, 1)


def test_second_daemon_at_the_same_path_is_told_who_is_there_and_what_to_do(daemon: RunningDaemon) -> None:
    inode = (daemon.folder / "s").stat().st_ino
    before = len(daemon.output())
    second = RunningDaemon(daemon.folder, {"models": [{"name": "stub", "source": "path:/nowhere"}]})
    assert second.process.wait(seconds(10)) != 0
    said = second.output()[before:]
    assert f"already (process {daemon.process.pid}): stop it or choose another endpoint" in said
    assert (daemon.folder / "s").stat().st_ino == inode
    with daemon.client() as client:
        assert client.embed(["still served"]).shape == (1, 8)


def test_model_folder_that_everybody_may_write_is_refused_with_what_to_do(socket_folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"models": models(tmp_path / "m")}
    (tmp_path / "m").chmod(0o777)
    with running_daemon(socket_folder, **settings) as running:
        with Client(running.endpoint, timeout=seconds(5)) as client, pytest.raises(UnsafeModel) as refused:
            client.embed("a text")
        assert f"chmod o-w {tmp_path / 'm'}" in refused.value.message
        done = CliRunner().invoke(cli, ["embed", "--endpoint", running.endpoint, "a text"])
        assert done.exit_code != 0
        assert f"chmod o-w {tmp_path / 'm'}" in done.output
        assert f"chmod o-w {tmp_path / 'm'}" in running.output()


def test_folder_above_the_sockets_that_others_may_write_is_refused_with_what_to_do(
    socket_folder: Path, tmp_path: Path
) -> None:
    (socket_folder / "own").mkdir(0o750)
    socket_folder.chmod(0o777)
    refused = RunningDaemon(socket_folder / "own", {"models": models(tmp_path / "m")})
    assert refused.process.wait(seconds(10)) != 0
    assert f"chmod go-w {socket_folder}" in refused.output()


@pytest.mark.parametrize("bit", [0o020, 0o002])
def test_folder_that_others_may_write_is_refused_with_what_to_do(socket_folder: Path, tmp_path: Path, bit: int) -> None:
    socket_folder.chmod(0o750 | bit)
    refused = RunningDaemon(socket_folder, {"models": models(tmp_path / "m")})
    assert refused.process.wait(seconds(10)) != 0
    assert "chmod" in refused.output()
