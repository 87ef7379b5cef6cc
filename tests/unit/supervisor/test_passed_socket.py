"""A socket that the service manager passed: what is taken, and what is refused with a word."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from embeddaemon.errors import ConfigError
from embeddaemon.supervisor.surroundings.service import passed_socket
from tests.support.service_manager import listening_socket

OURS = {"LISTEN_PID": "7", "LISTEN_FDS": "1"}


@pytest.fixture
def descriptor(socket_folder: Path) -> Iterator[int]:
    """Listening, and one that a program started by us would inherit, as systemd passes it."""
    with listening_socket(socket_folder / "s") as listening:
        copy = os.dup(listening.fileno())
        os.set_inheritable(copy, True)
        yield copy


def test_listening_socket_is_taken_with_the_endpoint_that_clients_know(descriptor: int, socket_folder: Path) -> None:
    passed = passed_socket(OURS, 7, descriptor)
    assert passed is not None
    assert passed.endpoint == f"ipc://{socket_folder}/s"
    assert not os.get_inheritable(descriptor), "workers are not to have it"
    passed.socket.close()


@pytest.mark.parametrize(
    "environment", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "8", "LISTEN_FDS": "1"}, {**OURS, "LISTEN_FDS": "0"}]
)
def test_what_is_not_meant_for_us_is_left_alone(descriptor: int, environment: dict[str, str]) -> None:
    assert passed_socket(environment, 7, descriptor) is None
    os.close(descriptor)  # raises if it was touched


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"LISTEN_FDS": "many"}, "LISTEN_FDS: 'many'"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:zmq"}, r"2 sockets \(http:zmq\)"),
        ({"LISTEN_FDS": "2"}, "without names"),
    ],
)
def test_not_exactly_one_socket_is_an_error(variables: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        passed_socket({**OURS, **variables}, 7)


def kinds(folder: Path) -> dict[str, socket.socket]:
    tcp = socket.create_server(("127.0.0.1", 0))
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagram.bind(str(folder / "d"))
    silent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    silent.bind(str(folder / "q"))
    abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    abstract.bind(f"\0embeddaemon-{folder.name}")
    abstract.listen()
    return {
        "is no Unix socket": tcp,
        "is no stream socket": datagram,
        "does not listen": silent,
        "has no path": abstract,
    }


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="abstract sockets are Linux's")
def test_wrong_kind_of_socket_is_an_error_that_says_what_it_is(socket_folder: Path) -> None:
    for said, wrong in kinds(socket_folder).items():
        with pytest.raises(ConfigError, match=rf"{said}.*ListenStream="):
            passed_socket(OURS, 7, wrong.detach())
    (socket_folder / "d").unlink()
    (socket_folder / "q").unlink()


def test_descriptor_that_is_no_socket_is_an_error(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(ConfigError, match="is no socket"):
        passed_socket(OURS, 7, descriptor)
    os.close(descriptor)
