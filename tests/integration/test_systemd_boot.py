"""The installed units under a real systemd, with the bundled model and every restriction that the unit has."""

from __future__ import annotations

import re
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


def test_user_has_a_daemon_of_his_own_under_his_own_manager(machine: SystemdMachine) -> None:
    done = CliRunner().invoke(cli, ["install-service", "--user", "--dry-run"])
    assert done.exit_code == 0, done.output
    runtime, home = "/run/user-of-test", "/home/stranger"
    units = _shown_files(done.output)
    assert sorted(units) == ["embeddaemon.service", "embeddaemon.socket"]
    for name, text in units.items():
        machine.write(f"{home}/.config/systemd/user/{name}", text)
    machine.do("chown", "--recursive", "stranger:stranger", home)
    machine.do("install", "--directory", "--owner=stranger", runtime)
    variables = (f"XDG_RUNTIME_DIR={runtime}", f"HOME={home}")
    manager = ["systemd-run", "--unit=manager", "--property=User=stranger", "--property=Delegate=yes"]
    machine.do(*manager, *(f"--setenv={each}" for each in variables), "/usr/lib/systemd/systemd", "--user")
    wait_until(lambda: machine.run("test", "-S", f"{runtime}/systemd/private").returncode == 0, 20)
    as_user = ("setpriv", "--reuid=stranger", "--regid=stranger", "--init-groups", "env", *variables)
    machine.do(*as_user, "systemctl", "--user", "start", UNIT)
    assert "running for" in machine.do(*as_user, PROGRAM, "status")
    assert machine.do("stat", "--format=%U %a", f"{runtime}/embeddaemon").strip() == "stranger 700"
    machine.do("systemctl", "stop", "manager.service")


def _shown_files(dry_run: str) -> dict[str, str]:
    """Name to text, of what --dry-run shows."""
    parts = re.split(r"^# ---- (\S+): .*\n", dry_run, flags=re.MULTILINE)
    return {Path(path).name: text for path, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_wrong_configuration_is_not_tried_again(machine: SystemdMachine) -> None:
    machine.write("/etc/embeddaemon/embeddaemon.toml", "[daemon]\nno_such_key = 1\n")
    try:
        assert machine.run("systemctl", "start", UNIT).returncode != 0
        assert machine.show(UNIT, "ActiveState") == "failed"
        assert machine.show(UNIT, "NRestarts") == "0"
        assert "no_such_key" in machine.journal()
    finally:
        machine.do("rm", "/etc/embeddaemon/embeddaemon.toml")
