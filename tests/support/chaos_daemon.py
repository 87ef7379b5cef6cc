"""A daemon in a storm: started again at once when its supervisor is killed, as a service manager would do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from embeddaemon import Client
from embeddaemon.errors import EmbedDaemonError
from embeddaemon.supervisor.memory.worker_cgroups import folder_name
from tests.support.daemon import RunningDaemon, is_gone
from tests.support.skewed_clock import SkewedClock, skewed_clock
from tests.support.sockets import socket_files
from tests.support.waiting import seconds, wait_until

_STATE_BYTES = 64 * 1024
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_SHARED_MEMORY = Path("/dev/shm")


class ChaosDaemon:
    """Its folder, its state folder, its clock, and whichever process is the supervisor now."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.temporary = folder / "tmp"
        self.clock: SkewedClock | None = skewed_clock(folder)
        self.pids: list[int] = []
        """Of all the supervisors there were."""
        self.slowest_end_seconds = 0.0
        """From a kill of a supervisor until nothing of it was left."""
        self.slowest_start_seconds = 0.0
        """From then on until its successor said HELLO."""
        self._settings = {**settings, "state_folder": str(self.state), "exit_with_parent": True}
        self._shared_before = _names(_SHARED_MEMORY)
        self.has_state_mount = False
        self.temporary.mkdir()
        self.state.mkdir(mode=0o700)

    def start(self) -> None:
        """The first one."""
        self.has_state_mount = _mount(self.state, "-t", "tmpfs", "-o", f"size={_STATE_BYTES},mode=700", "tmpfs")
        self.running = self._started()

    @property
    def endpoint(self) -> str:
        return self.running.endpoint

    @property
    def pid(self) -> int:
        return self.running.process.pid

    def remount_state(self, how: str) -> None:
        """``ro`` or ``rw``."""
        assert _mount(self.state, "-o", f"remount,{how}"), f"the state folder could not be made {how}"

    def below(self, kind: str | None = None) -> list[psutil.Process]:
        """Processes below the supervisor, of one kind or all."""
        found = []
        for pid in _tree(self.pid):
            with contextlib.suppress(OSError, psutil.NoSuchProcess):
                name = (_PROC / str(pid) / "comm").read_text().strip()
                if name == kind or (kind is None and pid != self.pid):
                    found.append(psutil.Process(pid))
        return found

    def replace(self) -> None:
        """SIGKILL to the supervisor; nothing of it may be left a second later; then the next one starts."""
        processes = self.below()
        killed_at = time.monotonic()
        self.running.process.send_signal(signal.SIGKILL)
        self.running.process.wait(seconds(5))
        wait_until(lambda: all(map(is_gone, processes)), 5, describe=lambda: processes)
        self.slowest_end_seconds = max(self.slowest_end_seconds, time.monotonic() - killed_at)
        begun = time.monotonic()
        self.running = self._started()
        self.slowest_start_seconds = max(self.slowest_start_seconds, time.monotonic() - begun)

    def _started(self) -> RunningDaemon:
        launcher = (*(("env",) if self.clock is None else self.clock.launcher), f"TMPDIR={self.temporary}")
        running = RunningDaemon(self.folder, self._settings, launcher)
        self.pids.append(running.process.pid)

        def answers() -> bool:
            assert running.process.poll() is None, running.output()[-5000:]
            with Client(running.endpoint, timeout=2) as client:
                try:
                    return client.hello().pid == running.process.pid
                except EmbedDaemonError:
                    return False

        wait_until(answers, 30, describe=running.output)
        return running

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self.running.stop()

    def left_behind(self) -> list[str]:
        """What of all those that ran here is still there after the end."""
        allowed = {"log", "s.lock", "state", "tmp", "skewed_clock", "skewed_clock.so"}
        found = [f"file {path}" for path in self.folder.iterdir() if path.name not in allowed and not path.is_dir()]
        found += [f"socket {path}" for path in socket_files(self.folder)]
        found += [f"temporary file {path}" for path in self.temporary.rglob("*") if not path.is_dir()]
        found += [f"state {path}" for path in self.state.iterdir() if path.name.startswith(".")]
        found += [f"shared memory {name}" for name in _names(_SHARED_MEMORY) - self._shared_before]
        names = {folder_name(_PROC, pid) for pid in self.pids}
        found += [f"cgroup {path}/{name}" for path, below, _ in os.walk(_CGROUPS) for name in names.intersection(below)]
        return found

    def close(self) -> None:
        """The mount, and what still runs."""
        with contextlib.suppress(AttributeError):
            if self.running.process.poll() is None:
                self.running.kill_supervisor()
        if self.has_state_mount:
            subprocess.run(["umount", "--lazy", str(self.state)], check=False)
        if self.clock is not None:
            self.clock.close()


@contextlib.contextmanager
def chaos_daemon(folder: Path, settings: Mapping[str, Any]) -> Iterator[ChaosDaemon]:
    """One that answers; stopped at the end, however that comes."""
    daemon = ChaosDaemon(folder, settings)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


def _mount(place: Path, *options: str) -> bool:
    """Whether it could be done: it needs root, and a system that lets root do it."""
    if os.geteuid() != 0:
        return False
    command = ["mount", *options, str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _tree(pid: int) -> list[int]:
    """A process and all below it, by what the kernel says of each thread's children."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in (_PROC / str(parent) / "task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found
