"""A daemon in a storm: started with settings, its log read back event by event, stopped at the end."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._harness import ROOT
from embeddaemon import Client, DaemonUnreachable

_START_SECONDS = 60
_STOP_SECONDS = 60


class StormDaemon:
    """One daemon of our own; ``launcher`` is put before its command."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], launcher: Sequence[str] = ()) -> None:
        self.endpoint = f"ipc://{folder}/s"
        self.log = folder / "log"
        argument = json.dumps({"endpoint": self.endpoint, "exit_with_parent": True, **settings})
        command = [*launcher, sys.executable, "-m", "benchmarks._storm_program", argument]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, cwd=ROOT)
        self.pid = self.process.pid
        self.exit_code: int | None = None

    def wait_until_it_answers(self) -> None:
        """Raises RuntimeError with the log if the daemon has ended, or says nothing for a minute."""
        last = time.monotonic() + _START_SECONDS
        while time.monotonic() < last and self.process.poll() is None:
            with Client(self.endpoint, timeout=10) as client, contextlib.suppress(DaemonUnreachable):
                client.hello()
                return
        raise RuntimeError(f"the daemon does not answer:\n{self.log.read_text(encoding='utf-8', errors='replace')}")

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def events(self) -> list[dict[str, Any]]:
        """Every line that the supervisor logged, as a map; what its children wrote is left out."""
        found = []
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                if isinstance(event, dict) and "event" in event:
                    found.append(event)
        return found

    def event_counts(self) -> Counter[str]:
        """How often each event was logged; deaths of workers and templates apart, by their class."""
        counts: Counter[str] = Counter()
        for event in self.events():
            death = event.get("death")
            counts[f"{event['event']}.{death}" if death else event["event"]] += 1
        return counts

    def stop(self) -> int:
        """SIGTERM; its exit code, that of SIGKILL where it does not go."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_SECONDS)
        if self.process.poll() is None:
            self.process.kill()
        self.exit_code = self.process.wait(_STOP_SECONDS)
        return self.exit_code


@contextlib.contextmanager
def storm_daemon(folder: Path, settings: Mapping[str, Any], launcher: Sequence[str] = ()) -> Iterator[StormDaemon]:
    """One that answers; stopped at the end."""
    daemon = StormDaemon(folder, settings, launcher)
    try:
        daemon.wait_until_it_answers()
        yield daemon
    finally:
        daemon.stop()
