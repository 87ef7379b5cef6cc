"""Who makes trouble in a storm: kills processes, loads and unloads models, tells workers to eat memory."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks._pages import tree_of
from benchmarks._storm_client import LATE_SECONDS, TYPED
from embeddaemon import Client
from embeddaemon.errors import EmbedDaemonError

BLOAT = "eat 120 MiB"
WITHOUT_BOUND = "eat 10 GiB"

_TIMEOUT_SECONDS = 20.0
_VICTIMS = ("worker",) * 12 + ("template",) * 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Mean seconds between two troubles of a kind; None: never."""

    kill: float | None = 4.0
    kill_fork_server: float | None = 90.0
    reload: float | None = 5.0
    bloat: float | None = 4.0
    eat_without_bound: float | None = 30.0


@dataclass(slots=True)
class Trouble:
    """What was done, and how the requests that did it ended."""

    done: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


Act = Callable[[Client, random.Random], None]


class Troublemaker:
    """A thread per kind of trouble, so that one that waits for its answer keeps no other back."""

    def __init__(self, endpoint: str, pid: int, models: Sequence[str], rates: Rates, seed: int) -> None:
        self._endpoint = endpoint
        self._pid = pid
        self._models = models
        self._finish = threading.Event()
        self.trouble = Trouble()
        kinds = {
            "kill": (rates.kill, self._kill),
            "kill fork server": (rates.kill_fork_server, self._kill_fork_server),
            "reload": (rates.reload, self._reload),
            "bloat": (rates.bloat, self._bloat),
            "without bound": (rates.eat_without_bound, self._eat_without_bound),
        }
        self._threads = [
            threading.Thread(target=self._make, args=(act, mean, random.Random(f"{seed} {kind}")), name=kind)
            for kind, (mean, act) in kinds.items()
            if mean is not None
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No more; waits for what is under way."""
        self._finish.set()
        for thread in self._threads:
            thread.join()

    def _make(self, act: Act, mean_seconds: float, choose: random.Random) -> None:
        with Client(self._endpoint) as client:
            while not self._finish.wait(choose.uniform(0.5, 1.5) * mean_seconds):
                asked_at = time.monotonic()
                try:
                    act(client, choose)
                except EmbedDaemonError as error:
                    self.trouble.endings[error.code] += 1
                    if error.code not in TYPED:
                        self.trouble.wrong.append(f"trouble: {error.code}: {error}")
                if (took := time.monotonic() - asked_at) > _TIMEOUT_SECONDS + LATE_SECONDS:
                    self.trouble.wrong.append(f"trouble took {took:.1f} s, deadline {_TIMEOUT_SECONDS} s")

    def _kill(self, client: Client, choose: random.Random) -> None:
        self._strike(client, choose, choose.choice(_VICTIMS))

    def _kill_fork_server(self, client: Client, choose: random.Random) -> None:
        self._strike(client, choose, "fork-server")

    def _strike(self, client: Client, choose: random.Random, kind: str) -> None:
        pids = _pids(client.status(timeout=_TIMEOUT_SECONDS), kind)
        with contextlib.suppress(OSError):  # it may just have ended, or a process of the tree that is being read
            alive = [pid for pid in pids if pid in tree_of(self._pid)]
            if alive:
                os.kill(choose.choice(alive), signal.SIGKILL)
                self.trouble.done[f"killed {kind}"] += 1

    def _reload(self, client: Client, choose: random.Random) -> None:
        operation = choose.choice(("load", "unload"))
        self.trouble.done[operation] += 1
        act = client.load if operation == "load" else client.unload
        act(choose.choice(self._models), timeout=_TIMEOUT_SECONDS)
        self.trouble.endings["answered"] += 1

    def _bloat(self, client: Client, choose: random.Random) -> None:
        self._feed(client, choose, BLOAT)

    def _eat_without_bound(self, client: Client, choose: random.Random) -> None:
        self._feed(client, choose, WITHOUT_BOUND)

    def _feed(self, client: Client, choose: random.Random, text: str) -> None:
        self.trouble.done[text] += 1
        client.embed(text, model=choose.choice(self._models), timeout=_TIMEOUT_SECONDS)
        self.trouble.endings["answered"] += 1


def _pids(status: Mapping[str, Any], kind: str) -> list[int]:
    """Of the processes of a kind. A lease may wait for its worker and name the template meanwhile."""
    named = status["workers"] if kind == "worker" else status["memory"]["leases"]
    return [int(one["pid"]) for one in named if one["pid"] and str(one.get("holder", kind)).startswith(kind)]
