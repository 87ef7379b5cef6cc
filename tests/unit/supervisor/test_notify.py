"""Reports arrive at a real datagram socket, and a manager that does not read never holds the daemon up."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from embeddaemon.errors import ConfigError
from embeddaemon.supervisor.surroundings.notify import Notifier
from embeddaemon.supervisor.surroundings.service import Manager, manager_of
from tests.support.service_manager import notify_socket


def notifier(address: str, *, watchdog_seconds: float | None = None) -> Notifier:
    return Notifier(Manager(address, watchdog_seconds), lambda now: f"at {now:g}")


def test_report_arrives_at_a_path(socket_folder: Path) -> None:
    with notify_socket(socket_folder / "n") as heard:
        saying = notifier(str(heard.path), watchdog_seconds=4.0)
        saying.turn(1.0)
        assert heard.read() == [{"READY": "1", "WATCHDOG": "1", "STATUS": "at 1"}]
        saying.close()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_report_arrives_at_an_abstract_name(socket_folder: Path) -> None:
    name = f"embeddaemon-test-{socket_folder.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0" + name)
        heard.settimeout(1)
        manager = manager_of({"NOTIFY_SOCKET": "@" + name}, 1)
        assert manager is not None
        saying = notifier(manager.address)
        saying.turn(1.0)
        assert heard.recv(4096) == b"READY=1\nSTATUS=at 1"
        saying.close()


def test_what_a_full_queue_has_no_room_for_is_said_later_and_only_the_last_status(socket_folder: Path) -> None:
    with notify_socket(socket_folder / "n") as heard:
        saying = notifier(str(heard.path))
        now = 1.0
        while saying.next_due() == float("inf"):  # until a message found no room: then it is due again soon
            now += 1.0
            saying.turn(now)
        assert saying.next_due() < now + 1.0
        full = len(heard.read())
        saying.stopping(now)
        saying.turn(now + 1.0)
        assert len(heard.read()) > full
        assert heard.values("STOPPING") == ["1"]
        assert heard.values("STATUS")[-1] == f"at {now + 1.0:g}"
        saying.close()


def test_manager_that_is_gone_costs_one_line_of_the_log_and_hears_us_when_it_is_back(
    socket_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saying = notifier(str(socket_folder / "n"), watchdog_seconds=2.0)
    saying.turn(1.0)
    saying.turn(10.0)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["service_manager_not_told"]
    assert saying.next_due() > 10.0, "nobody is woken for it before something is due"
    with notify_socket(socket_folder / "n") as heard:
        saying.turn(11.0)
        assert heard.values("WATCHDOG") == ["1"]
    saying.close()


def test_without_a_manager_nothing_is_due_and_nothing_is_looked_at() -> None:
    looks: list[float] = []

    def look(now: float) -> str:
        looks.append(now)
        return ""

    silent = Notifier(None, look)
    silent.turn(1.0)
    silent.stopping(2.0)
    with silent.reloading(3.0):
        pass
    assert silent.next_due() == float("inf")
    assert looks == []
    silent.close()


def test_reload_that_fails_still_ends_with_ready(socket_folder: Path) -> None:
    with notify_socket(socket_folder / "n") as heard:
        saying = notifier(str(heard.path))
        saying.turn(1.0)
        with pytest.raises(ValueError, match="wrong"), saying.reloading(2.0):
            raise ValueError("wrong")
        assert heard.read()[1:] == [{"RELOADING": "1", "MONOTONIC_USEC": "2000000"}, {"READY": "1"}]
        saying.close()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
    ],
)
def test_watchdog_is_ours_unless_it_is_meant_for_another(environment: dict[str, str], seconds: float | None) -> None:
    assert manager_of({"NOTIFY_SOCKET": "/run/n", **environment}, 7) == Manager("/run/n", seconds)


def test_without_a_socket_to_report_to_there_is_no_manager() -> None:
    assert manager_of({"WATCHDOG_USEC": "1"}, 7) is None
    assert manager_of({"NOTIFY_SOCKET": ""}, 7) is None


@pytest.mark.parametrize(
    "wrong",
    [{"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"}]
    + [{"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": written} for written in ("0", "-1", "1.5")],
)
def test_what_no_manager_would_say_is_an_error_that_names_the_variable(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=list(wrong)[-1]):
        manager_of(wrong, 7)
