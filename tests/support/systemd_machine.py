"""A real systemd, booted from this machine's /usr with everything else in memory, for tests of the units. Linux, root.

systemd-nspawn (Debian: systemd-container) boots it. Limits on memory are not delegated to it where cgroups are v1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import seconds, wait_until

ROOT = Path(__file__).resolve().parents[2]
_STEPS = ("nsenter", "systemctl", "systemd-nspawn", "systemd-sysusers")


def program_folders() -> list[Path]:
    """Outside /usr: what the tests' interpreter and this package need to be there."""
    folders = {ROOT, Path(sys.prefix), Path(sys.base_prefix)}
    return sorted(folder for folder in folders if not folder.is_relative_to("/usr"))


class SystemdMachine:
    """Booted, and to be told what to run by ``run``, as its root."""

    def __init__(self, leader: int) -> None:
        self._enter = ("nsenter", f"--target={leader}", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--")

    def run(self, *command: str, timeout_seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._enter, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=seconds(timeout_seconds),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_COLORS": "0", "LANG": "C.UTF-8"},
        )

    def do(self, *command: str, timeout_seconds: float = 60.0) -> str:
        """Its output. Fails the test when the command fails."""
        done = self.run(*command, timeout_seconds=timeout_seconds)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{self.journal()}"
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.do("systemctl", "show", f"--property={name}", "--value", unit).strip()

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "--lines=60", "--unit=embeddaemon").stdout

    def write(self, path: str, text: str) -> None:
        """A file in it, with its folders."""
        self.do("sh", "-c", 'mkdir -p "$(dirname "$0")" && printf %s "$1" > "$0"', path, text)

    def is_up(self) -> bool:
        state = self.run("systemctl", "is-system-running").stdout.strip()
        return state in {"running", "degraded"}


@contextmanager
def booted(folder: Path, shown: Sequence[Path]) -> Iterator[SystemdMachine]:
    """One that sees ``shown`` of this machine, read only; skips the test, saying why, where none can be booted."""
    _skip_where_it_cannot_be()
    command = ["systemd-nspawn", "--register=no", "--keep-unit", "--directory=/", "--volatile=yes", "--boot"]
    command += ["--console=pipe", f"--machine=ed-{os.getpid()}", *(f"--bind-ro={path}" for path in shown)]
    with (folder / "console").open("wb") as console:
        nspawn = subprocess.Popen(
            [*command, "systemd.unit=multi-user.target"], stdin=subprocess.DEVNULL, stdout=console, stderr=console
        )
    leader: psutil.Process | None = None
    try:
        wait_until(lambda: nspawn.poll() is not None or _child(nspawn.pid) is not None, 20)
        leader = _child(nspawn.pid)
        if leader is None:
            pytest.skip(f"no systemd boots here: {(folder / 'console').read_text(errors='replace').strip()[-300:]}")
        machine = SystemdMachine(leader.pid)
        wait_until(machine.is_up, 60, describe=lambda: (folder / "console").read_text(errors="replace"))
        yield machine
    finally:
        if leader is not None and leader.is_running():
            leader.kill()  # the first process of a pid namespace takes all others with it
        nspawn.terminate()
        nspawn.wait(seconds(20))


def _skip_where_it_cannot_be() -> None:
    if sys.platform != "linux":
        pytest.skip("systemd is Linux's")
    if os.getuid() != 0:
        pytest.skip("only root boots a systemd")
    missing = [name for name in _STEPS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def _child(pid: int) -> psutil.Process | None:
    """The first process of the machine, once it is more than a copy of nspawn."""
    try:
        children = psutil.Process(pid).children()
        return next((child for child in children if Path(child.exe()).name == "systemd"), None)
    except psutil.Error:
        return None
