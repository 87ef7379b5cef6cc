"""The installed units under a real systemd, with the bundled model and every restriction that the unit has."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from embeddaemon.cli.app import cli
from tests.support.systemd_machine import SystemdMachine, booted, program_folders
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

PROGRAM = str(Path(sys.executable).with_name("embeddaemon"))
SOCKET = "/run/embeddaemon/embeddaemon.sock"
WATCHDOG_SECONDS = 3
"""Of the one test that waits for it; a machine that is busy delays the loop too."""
UNIT = "embeddaemon.service"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdMachine]:
    """With the units installed, and nothing started."""
    folder = tmp_path_factory.mktemp("machine")
    with booted(folder, [*program_folders(), folder]) as started:
        done = CliRunner().invoke(cli, ["install-service", "--root", str(folder), "--force"])
        assert done.exit_code == 0, done.output
        started.do("cp", "--recursive", f"{folder}/etc", "/")
        _open_the_way(started)
        started.do("systemd-sysusers")
        started.do("systemctl", "daemon-reload")
        for name in ("member", "stranger"):
            started.do("useradd", "--user-group", name)
        started.do("usermod", "--append", "--groups", "embeddaemon", "member")
        yield started


def _open_the_way(machine: SystemdMachine) -> None:
    """To the tests' interpreter, which may lie where the unit hides things, and to nothing else that is there."""
    folders = program_folders()
    lines = ["[Service]", "ProtectHome=tmpfs", *(f"BindReadOnlyPaths={folder}" for folder in folders)]
    machine.write(f"/etc/systemd/system/{UNIT}.d/test.conf", "\n".join(lines) + "\n")
    for folder in folders:
        for parent in folder.parents[:-1]:
            machine.run("chmod", "a+x", str(parent))  # in memory: those that are shown are below


@pytest.fixture(autouse=True)
def stopped(machine: SystemdMachine) -> Iterator[None]:
    """Each test begins and ends without daemon and socket."""
    yield
    machine.do("systemctl", "stop", "embeddaemon.socket", UNIT)
    machine.run("systemctl", "reset-failed", UNIT)


def embed(machine: SystemdMachine, user: str, text: str) -> str:
    return call(machine, user, "embed", text)


def call(machine: SystemdMachine, user: str, *arguments: str) -> str:
    """What our program says to that user."""
    who = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--")
    return machine.run(*who, PROGRAM, *arguments).stdout


def test_service_embeds_for_its_group_and_for_nobody_else(machine: SystemdMachine) -> None:
    machine.do("systemctl", "start", UNIT)
    assert machine.show(UNIT, "ActiveState") == "active"
    assert '"embedding": [' in embed(machine, "member", "hello"), machine.journal()
    assert "no daemon listens at" in embed(machine, "stranger", "hello")
    wait_until(lambda: "ready: " in machine.show(UNIT, "StatusText"), 10, describe=machine.journal)
    pid = machine.show(UNIT, "MainPID")
    machine.do("systemctl", "reload", UNIT)
    wait_until(lambda: machine.show(UNIT, "ActiveState") == "active", 10, describe=machine.journal)
    assert machine.show(UNIT, "MainPID") == pid
    machine.do("systemctl", "stop", UNIT)
    assert machine.show(UNIT, "Result") == "success"
    assert "stopped unreaped=0" in machine.journal()


def test_loop_that_stands_still_is_killed_with_its_stack_in_the_journal_and_started_again(
    machine: SystemdMachine,
) -> None:
    drop_in = f"/etc/systemd/system/{UNIT}.d/watchdog.conf"
    machine.write(drop_in, f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n")
    machine.do("systemctl", "daemon-reload")
    machine.do("systemctl", "start", UNIT)
    pid = machine.show(UNIT, "MainPID")
    machine.do("rm", drop_in)
    machine.do("systemctl", "daemon-reload")
    machine.do("kill", "-STOP", pid)
    wait_until(lambda: machine.show(UNIT, "NRestarts") == "1", 20, describe=machine.journal)
    wait_until(lambda: machine.show(UNIT, "ActiveState") == "active", 20, describe=machine.journal)
    assert machine.show(UNIT, "MainPID") != pid
    assert "Watchdog timeout" in machine.journal()
    assert "supervisor/loop.py" in machine.journal()


def test_first_client_starts_the_service_and_the_socket_outlives_it(machine: SystemdMachine) -> None:
    machine.do("systemctl", "start", "embeddaemon.socket")
    assert machine.show(UNIT, "ActiveState") == "inactive"
    wait_until(lambda: "running for" in call(machine, "member", "status"), 60, describe=machine.journal)
    assert machine.show(UNIT, "ActiveState") == "active"
    machine.do("systemctl", "stop", UNIT)
    assert machine.do("stat", "--format=%F %U %G %a", SOCKET).strip() == "socket embeddaemon embeddaemon 660"
    assert machine.do("stat", "--format=%U %a", "/run/embeddaemon").strip() == "embeddaemon 750"


def test_wrong_configuration_is_not_tried_again(machine: SystemdMachine) -> None:
    machine.write("/etc/embeddaemon/embeddaemon.toml", "[daemon]\nno_such_key = 1\n")
    try:
        assert machine.run("systemctl", "start", UNIT).returncode != 0
        assert machine.show(UNIT, "ActiveState") == "failed"
        assert machine.show(UNIT, "NRestarts") == "0"
        assert "no_such_key" in machine.journal()
    finally:
        machine.do("rm", "/etc/embeddaemon/embeddaemon.toml")
