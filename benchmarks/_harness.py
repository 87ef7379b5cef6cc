"""What the benchmarks share: a private daemon, repetitions, and one line per figure."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from embeddaemon import Client, DaemonUnreachable

TEXT = "Which planet is known as the Red Planet?"


class Daemon:
    """A daemon of its own with the bundled model; ``started_at``: when its process was started, monotonic seconds."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.endpoint = f"ipc://{folder}/s"
        config = folder / "empty.toml"
        config.touch()
        command = [sys.executable, "-m", "embeddaemon", "serve", "--endpoint", self.endpoint, "--config", str(config)]
        self._log = (folder / "log").open("wb")
        self.started_at = time.monotonic()
        self._process = subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL, stderr=self._log)

    def wait_until_it_answers(self) -> None:
        """Until HELLO is answered."""
        while True:
            with Client(self.endpoint, timeout=10) as client, contextlib.suppress(DaemonUnreachable):
                client.hello()
                return

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        self._log.close()


@contextlib.contextmanager
def daemon(*arguments: str) -> Iterator[Daemon]:
    """Started, not waited for; stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="ed-bench-", dir="/tmp") as folder:
        running = Daemon(Path(folder), *arguments)
        try:
            yield running
        finally:
            running.stop()


def machine() -> str:
    """One line about where the figures come from."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def report(what: str, values: Sequence[float], unit: str = "ms") -> None:
    """Median, range and number of repetitions."""
    spread = f"{min(values):.1f} to {max(values):.1f}"
    sys.stdout.write(f"{what:<52} {statistics.median(values):8.1f} {unit}  ({spread}, {len(values)} times)\n")
    sys.stdout.flush()
