"""systemd/, deploy/ and their pages repeat defaults of the code: here they agree."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from embeddaemon.cli.console import Exit
from embeddaemon.config.settings import Settings
from embeddaemon.config.state_folder import SYSTEM_STATE_FOLDER
from embeddaemon.protocol.endpoints import SYSTEM_SOCKET
from embeddaemon.supervisor.connections.listener import _BACKLOG as BACKLOG
from embeddaemon.supervisor.stopping import STOP_SECONDS
from tests.support.chart import Chart
from tests.support.manifests import CHART, DEPLOY, ROOT

SYSTEMD = ROOT / "systemd"
SETTINGS = Settings(endpoint="ipc:///s", models=(), default_model="")
FILES = sorted(
    path
    for path in [*SYSTEMD.rglob("*"), *DEPLOY.rglob("*"), *(ROOT / "docs").glob("*.md")]
    if path.is_file() and not path.is_symlink()
)
SERVICES = sorted(SYSTEMD.rglob("*.service"))
SOCKETS = sorted(SYSTEMD.rglob("*.socket"))


def directives(path: Path) -> dict[str, list[str]]:
    pairs = [line.partition("=") for line in path.read_text().splitlines() if re.match(r"[A-Za-z]+=", line)]
    return {name: [value for other, _, value in pairs if other == name] for name, _, _ in pairs}


def test_drain_timeout_is_said_as_it_is() -> None:
    said = {
        (path.name, number)
        for path in FILES
        for numbers in re.findall(
            r"drain_timeout`? \((\d+) s\)|drain_timeout`, (\d+) s\)|(\d+) s[^.\n]*\(drain_timeout\)", path.read_text()
        )
        for number in numbers
        if number
    }
    assert len(said) >= 5
    assert {number for _, number in said} == {f"{SETTINGS.drain_seconds:.0f}"}, said


def test_time_that_processes_take_to_stop_is_said_as_it_is() -> None:
    pattern = r"(\d+) s\b(?= for (?:its|the) processes)|stops its processes in (\d+) s"
    said = {number for path in FILES for found in re.findall(pattern, path.read_text()) for number in found if number}
    assert said == {f"{2 * STOP_SECONDS:.0f}"}


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: str(path.relative_to(SYSTEMD)))
def test_unit_repeats_what_the_daemon_does(path: Path) -> None:
    unit = directives(path)
    assert float(unit["TimeoutStopSec"][0]) > SETTINGS.drain_seconds + 2 * STOP_SECONDS
    assert int(unit["RestartPreventExitStatus"][0]) == Exit.USAGE
    page = (ROOT / "docs/deployment.md").read_text()
    assert f"`WatchdogSec=` ({unit['WatchdogSec'][0]} s)" in page
    assert f"`TimeoutStopSec=` ({unit['TimeoutStopSec'][0]} s)" in page


def test_a_users_unit_says_the_same_as_the_systems() -> None:
    systems, users = directives(SYSTEMD / "embeddaemon.service"), directives(SYSTEMD / "user/embeddaemon.service")
    differ = {name for name in systems.keys() & users.keys() if systems[name] != users[name]}
    assert differ == {"Description", "RuntimeDirectoryMode", "WantedBy"}


@pytest.mark.parametrize("path", SOCKETS, ids=lambda path: str(path.relative_to(SYSTEMD)))
def test_socket_of_systemd_is_as_one_of_our_own(path: Path) -> None:
    unit = directives(path)
    assert unit["ListenStream"] == [f"%t/{SYSTEM_SOCKET.relative_to('/run')}"]
    assert unit["Backlog"] == [str(BACKLOG)]


def test_folders_of_the_system_are_those_that_the_program_looks_into() -> None:
    found = {
        place
        for path in FILES
        if path.suffix != ".md"
        for place in re.findall(r"/var/lib/[\w/-]+|/run/embeddaemon/embeddaemon\.sock", path.read_text())
    }
    assert found == {str(SYSTEM_STATE_FOLDER), str(SYSTEM_SOCKET)}


def test_chart_has_the_budget_of_the_program_and_leaves_time_to_stop() -> None:
    assert Chart(CHART).values["memoryBudget"] == SETTINGS.memory_budget
    schema = json.loads((CHART / "values.schema.json").read_text())
    least_seconds = SETTINGS.drain_seconds + 2 * STOP_SECONDS
    assert schema["properties"]["terminationGracePeriodSeconds"]["minimum"] == least_seconds
