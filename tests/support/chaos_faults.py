"""Faults on purpose, chosen by a seeded menu: signals at every stage of life, texts that kill, files, clocks."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from embeddaemon import Client
from embeddaemon.errors import EmbedDaemonError
from tests.support.chaos_daemon import ChaosDaemon
from tests.support.chaos_provoker import Provoker
from tests.support.waiting import seconds

_WATCH_SECONDS = 1.5
"""How long a process is waited for that is in the wanted stage of its life."""
_YEAR_SECONDS = 365 * 24 * 3600
_OFFSETS = (0, 3600, -3600, 86_400, -86_400, _YEAR_SECONDS, -40 * _YEAR_SECONDS, 20 * _YEAR_SECONDS)

Act = Callable[[], bool]


class Faults:
    """``strike`` does one of them. ``done`` counts those that met somebody."""

    def __init__(self, daemon: ChaosDaemon, models: Sequence[str], menu: Mapping[str, float], seed: int) -> None:
        """``menu``: names of faults to weights.

        SIGNAL KIND     to a process of that kind; who was stopped goes on a moment later
        freeze KIND     stopped, and never told to go on
        stage STAGE     SIGKILL to a process that is starting, loading, ready, busy, draining
        fork KIND       SIGKILL to whoever was just told to fork: ed-fork-server or ed-template
        text COMMAND    a request with a text that the engine obeys
        unlink NAME     one of the daemon's files
        state HOW       the state folder is full, read-only, garbage, or empty
        clock           the wall clock jumps
        supervisor HOW  stopped for a moment, or killed and started again
        """
        self.done: Counter[str] = Counter()
        self.provoker = Provoker(daemon, models, seed)
        self._daemon = daemon
        self._models = models
        self._menu = {name: weight for name, weight in menu.items() if self._is_possible(name)}
        self._choose = random.Random(seed)
        self._later: list[tuple[float, Callable[[], object]]] = []
        self._guard = threading.Lock()
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._release_in_time, name="release", daemon=True)
        self._thread.start()

    def _is_possible(self, name: str) -> bool:
        if name == "clock":
            return self._daemon.clock is not None
        return self._daemon.has_state_mount or name not in {"state full", "state read-only"}

    def strike(self) -> None:
        """One fault; nothing when nobody is there whom it could meet."""
        name = self._choose.choices(list(self._menu), weights=list(self._menu.values()))[0]
        with contextlib.suppress(psutil.NoSuchProcess, EmbedDaemonError):
            if self._act(name):
                self.done[name] += 1

    def _act(self, name: str) -> bool:
        what, _, which = name.partition(" ")
        match what:
            case "stage":
                return self._kill_in_stage(which)
            case "fork":
                return self._kill_during_fork(which)
            case "freeze":
                return self._signal(signal.SIGSTOP, which) is not None
            case "text":
                return self.provoker.tell(which)
            case "unlink":
                (self._daemon.folder / which).unlink(missing_ok=True)
                return True
            case "state":
                return self._spoil_state(which)
            case "clock":
                return self._jump()
            case "supervisor":
                return self._strike_supervisor(which)
            case number:
                return self._blow(signal.Signals[number], which)

    def _blow(self, number: signal.Signals, kind: str) -> bool:
        victim = self._signal(number, kind)
        if victim is not None and number is signal.SIGSTOP:
            self._do_later(self._choose.uniform(0.05, 1.5), victim.resume)
        return victim is not None

    def _signal(self, number: signal.Signals, kind: str) -> psutil.Process | None:
        alive = self._daemon.below(kind)
        if not alive:
            return None
        victim = self._choose.choice(alive)
        victim.send_signal(number)
        return victim

    def _kill_during_fork(self, kind: str) -> bool:
        """It stands still, somebody below it dies, so it is told to fork; it goes on, and dies at some moment of it."""
        forkers = self._daemon.below(kind)
        if not forkers:
            return False
        forker = self._choose.choice(forkers)
        below = forker.children()
        if not below:
            return False
        forker.suspend()
        self._choose.choice(below).kill()
        self._do_later(self._choose.uniform(0.05, 0.2), forker.resume)
        self._do_later(self._choose.uniform(0.05, 0.25), forker.kill)
        return True

    def _kill_in_stage(self, stage: str) -> bool:
        match stage:
            case "busy":
                self.provoker.tell("stall 0.5")
            case "draining":
                self.provoker.tell("stall 0.5", then_unload=True)
            case "starting":
                if (victim := self._signal(signal.SIGKILL, "ed-worker")) is None:
                    return False
                return self._kill_first_new(victim)
            case "loading":
                self.provoker.reload()
            case _:
                pass
        return self._kill_who_is(stage)

    def _kill_first_new(self, before: psutil.Process) -> bool:
        """Whoever is born below the daemon next, in its first milliseconds."""
        known = {before.pid, *(each.pid for each in self._daemon.below())}
        until = time.monotonic() + _WATCH_SECONDS
        while time.monotonic() < until:
            for process in self._daemon.below():
                if process.pid not in known:
                    process.kill()
                    return True
        return False

    def _kill_who_is(self, stage: str) -> bool:
        """One of those that the daemon itself says are in that stage."""
        until = time.monotonic() + _WATCH_SECONDS
        with Client(self._daemon.endpoint, timeout=2) as client:
            while time.monotonic() < until:
                found = [each for each in client.status()["processes"] if _is_in(each, stage)]
                if found:
                    alive = {each.pid: each for each in self._daemon.below()}
                    if (victim := alive.get(self._choose.choice(found)["pid"])) is not None:
                        victim.kill()
                        return True
        return False

    def _spoil_state(self, how: str) -> bool:
        state = self._daemon.state
        match how:
            case "full":
                with contextlib.suppress(OSError), (state / "filler").open("wb") as file:
                    while True:
                        file.write(bytes(4096))
                        file.flush()
                self._do_later(3, lambda: (state / "filler").unlink(missing_ok=True))
            case "read-only":
                self._daemon.remount_state("ro")
                self._do_later(3, lambda: self._daemon.remount_state("rw"))
            case "garbage":
                return _try(lambda: (state / "footprints.json").write_bytes(self._choose.randbytes(500)))
            case _:
                return _try(lambda: _remove_all(state))
        return True

    def _jump(self) -> bool:
        assert self._daemon.clock is not None, "the menu offers no clock then"
        self._daemon.clock.jump_to(self._choose.choice(_OFFSETS))
        return True

    def _strike_supervisor(self, how: str) -> bool:
        if how == "killed":
            self._release(float("inf"))
            self._daemon.replace()
            return True
        supervisor = psutil.Process(self._daemon.pid)
        supervisor.suspend()
        self._do_later(self._choose.uniform(0.05, 0.5), supervisor.resume)
        return True

    def _do_later(self, delay_seconds: float, act: Callable[[], object]) -> None:
        with self._guard:
            self._later.append((time.monotonic() + delay_seconds, act))

    def _release_in_time(self) -> None:
        """By itself: a fault that waits for the daemon must not wait for one that only we can let go on."""
        while not self._finish.wait(0.02):
            self._release(time.monotonic())

    def _release(self, now: float) -> None:
        """What was to come later and is due."""
        with self._guard:
            due = sorted((each for each in self._later if now >= each[0]), key=lambda each: each[0])
            self._later = [each for each in self._later if now < each[0]]
        for _, act in due:
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                act()

    def close(self) -> None:
        """What is still to come comes now; requests that are under way are waited for."""
        self._finish.set()
        self._thread.join()
        self._release(float("inf"))
        self.provoker.close()

    def pause(self, mean_seconds: float) -> float:
        """Until the next fault: often in quick succession."""
        return self._choose.choice((0.05, 0.2, 0.5, 1.25, 3.0)) * seconds(mean_seconds)


def _is_in(process: Mapping[str, Any], stage: str) -> bool:
    if stage == "ready" and process["kind"] == "worker":
        return bool(process["state"] == "ready")
    return process["pid"] is not None and process["state"] == stage


def _try(act: Callable[[], object]) -> bool:
    try:
        act()
    except OSError:
        return False
    return True


def _remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
