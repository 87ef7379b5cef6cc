"""The units as `install-service` writes them, read by systemd's own checks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from embeddaemon.cli.app import cli

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")

MOST_EXPOSURE = 1.0
"""Of the CPU unit, where 10 is a program that nothing restrains. What is left has its reason in the unit."""


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The folder of the system's units, without drop-ins."""
    return install(tmp_path)


def install(folder: Path, *arguments: str) -> Path:
    done = CliRunner().invoke(cli, ["install-service", "--root", str(folder), "--force", *arguments])
    assert done.exit_code == 0, done.output
    return folder / "etc/systemd/system"


def analyze(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "SYSTEMD_COLORS": "0", "PATH": "/usr/bin:/bin"}
    return subprocess.run(["systemd-analyze", *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("drop_ins", [(), ("--with", "gpu"), ("--with", "hub"), ("--with", "tcp")])
def test_systemd_has_no_word_against_the_systems_units(tmp_path: Path, drop_ins: tuple[str, ...]) -> None:
    folder = install(tmp_path, *drop_ins)
    done = analyze("verify", str(folder / "embeddaemon.service"), str(folder / "embeddaemon.socket"), home=tmp_path)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_has_no_word_against_a_users_units(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["install-service", "--user"], env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert done.exit_code == 0, done.output
    folder = tmp_path / "systemd/user"
    files = [str(folder / f"embeddaemon.{kind}") for kind in ("service", "socket")]
    verified = analyze("--user", "verify", *files, home=tmp_path)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_a_mistake_in_a_unit_is_seen(units: Path, tmp_path: Path) -> None:
    service = units / "embeddaemon.service"
    service.write_text(service.read_text() + "\n[Service]\nWatchDogSecs=1\n")
    done = analyze("verify", str(service), home=tmp_path)
    assert "WatchDogSecs" in done.stderr


def test_exposure_of_the_cpu_unit_is_small(units: Path, tmp_path: Path) -> None:
    threshold = f"--threshold={round(10 * MOST_EXPOSURE)}"
    done = analyze("security", "--offline=true", threshold, str(units / "embeddaemon.service"), home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


def test_every_directive_that_exposes_us_has_its_reason_in_the_unit(units: Path, tmp_path: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", str(units / "embeddaemon.service"), home=tmp_path)
    text = (units / "embeddaemon.service").read_text()
    exposing = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("✗")]
    assert exposing, done.stdout
    names = {name.partition("=")[0] for name in exposing}
    assert not {name for name in names if f"# {name}=" not in text and f"\n{name}=" not in text}
