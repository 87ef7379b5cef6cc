"""The hard limit of each worker: a memory cgroup where we may make one, else RLIMIT_DATA, else none. I/O.

The lease is what a worker may use, and a worker above it is trimmed and recycled; the hard limit is for the one that
allocates without bound before anybody looks. At a cgroup's limit the kernel kills exactly that process; at RLIMIT_DATA
its allocation fails, and it exits with ``control.EXIT_OUT_OF_MEMORY``. Only workers have one: a template's would be
inherited by its workers. The cgroups themselves are in worker_cgroups.py; when limits are set the core decides.
"""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embeddaemon.config.settings import HardLimits
from embeddaemon.errors import ConfigError
from embeddaemon.supervisor.events import KernelKilled
from embeddaemon.supervisor.memory.worker_cgroups import Unavailable, WorkerCgroups, worker_cgroups
from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)

_MIB = 1024 * 1024
DATA_SLACK_BYTES = 32 * _MIB
DATA_SLACK_OF_A_THREAD_BYTES = 48 * _MIB
"""RLIMIT_DATA bounds what is mapped, a lease what is used: a thread has a stack of 8 MiB, and an arena of malloc's that
keeps what it had. Measured from READY on, with the bundled model under bulk and short requests, as the most mapped less
the most used: 4 to 26 MiB with one thread, 29 to 67 with two, 136 to 153 with four.
"""

LEAST_GROWTH_BYTES = 16 * _MIB
"""A reserve of 0 leaves nothing above the lease, and a limit at what is held would kill at the next page."""

_VM_DATA = re.compile(r"^VmData:\s+(\d+) kB$", re.MULTILINE)


@dataclass(slots=True)
class _Worker:
    threads: int
    pid: int | None = None
    """Until whoever forked it says so; the worker itself may be heard first."""
    due_growth_bytes: int | None = None
    """A limit that waits for the pid."""
    is_in_cgroup: bool = False
    """It was seen there, so whoever killed it, its own cgroup knows."""


class HardLimiter:
    """Limits workers, and says of a dead process if the kernel killed it for lack of memory. Nothing here waits."""

    def __init__(self, wanted: HardLimits, kernel_kills: Callable[[], int | None], *, root: Path = Path("/")) -> None:
        """``kernel_kills`` is the probe's. Raises ConfigError when what is asked for is not to be had."""
        self._cgroups, self._has_data_limit, why = _choose(wanted, root)
        self._shared = _SharedKills(kernel_kills)
        self._workers: dict[int, _Worker] = {}
        self.kind = self._cgroups.version if self._cgroups else "rlimit" if self._has_data_limit else "none"
        """``cgroup v1``, ``cgroup v2``, ``rlimit`` or ``none``."""
        if self._cgroups is None:
            log.info(fields("hard_limits", kind=self.kind, why=why))
        else:
            log.info(fields("hard_limits", kind=self.kind, where=self._cgroups.folder))

    def prepare(self, child: int, threads: int) -> str | None:
        """For a worker that is about to be started: the cgroup that it has to enter, if it gets one."""
        self._workers[child] = _Worker(threads)
        if self._cgroups is None:
            return None
        try:
            return str(self._cgroups.make(child))
        except Unavailable as error:
            log.warning(fields("no_cgroup", child=child, reason=error))
            return None

    def born(self, child: int, pid: int) -> None:
        """It lives as this process. Nothing happens to what is no worker."""
        worker = self._workers.get(child)
        if worker is not None:
            worker.pid = pid
            if worker.due_growth_bytes is not None:
                self.limit(child, worker.due_growth_bytes)

    def limit(self, child: int, growth_bytes: int) -> None:
        """From now on it may grow by so many bytes, or a few if that is less. Nothing happens to what is no worker."""
        worker = self._workers.get(child)
        if worker is None:
            return
        growth_bytes = max(growth_bytes, LEAST_GROWTH_BYTES)
        worker.is_in_cgroup = self._is_in_cgroup(child)
        if worker.is_in_cgroup:
            self._limit_cgroup(child, growth_bytes)
        elif worker.pid is None:
            worker.due_growth_bytes = growth_bytes
        elif self._has_data_limit:
            slack_bytes = DATA_SLACK_BYTES + worker.threads * DATA_SLACK_OF_A_THREAD_BYTES
            limit_data(worker.pid, growth_bytes, slack_bytes)

    def _is_in_cgroup(self, child: int) -> bool:
        with contextlib.suppress(OSError):
            return self._cgroups is not None and self._cgroups.is_inside(child)
        return False

    def _limit_cgroup(self, child: int, growth_bytes: int) -> None:
        assert self._cgroups is not None
        try:
            self._cgroups.limit(child, growth_bytes)
        except (OSError, ValueError) as error:  # it ended, or took more while we wrote
            log.warning(fields("not_limited", child=child, reason=error))

    def kernel_kill(
        self, child: int, exit_code: int, *, was_told_to_die: bool, is_orphan: bool = False
    ) -> KernelKilled | None:
        """What is to be said before the news that it ended; once for each child, and before ``ended``.

        Of one that we killed ourselves, or that went with its parent, only its own cgroup can tell.
        """
        if exit_code != -signal.SIGKILL:
            return None
        by_own_limit = self._killed_in_cgroup(child)
        if by_own_limit is not None:
            return KernelKilled(child, by_hard_limit=by_own_limit)
        is_known = child in self._workers and self._workers[child].is_in_cgroup
        if is_known or was_told_to_die or is_orphan or not self._shared.explains_one():
            return None
        return KernelKilled(child, by_hard_limit=False)

    def _killed_in_cgroup(self, child: int) -> bool | None:
        """As ``WorkerCgroups.kernel_kill``; None too for what has no cgroup of its own."""
        if self._cgroups is None or child not in self._workers:
            return None
        with contextlib.suppress(OSError):
            by_own_limit = self._cgroups.kernel_kill(child)
            if by_own_limit is not None and self._cgroups.is_counted_above:
                self._shared.explains_one()
            return by_own_limit
        return None

    def ended(self, child: int) -> None:
        """It was reaped, or never started."""
        if child in self._workers:
            del self._workers[child]
            if self._cgroups is not None:
                self._cgroups.remove(child)

    def tidy(self) -> None:
        """To be called every few seconds."""
        self._shared.grow_old()
        if self._cgroups is not None:
            self._cgroups.tidy()

    def close(self) -> None:
        """Nothing of ours stays behind, unless the kernel is not through with it."""
        if self._cgroups is not None:
            self._cgroups.close()


def _choose(wanted: HardLimits, root: Path) -> tuple[WorkerCgroups | None, bool, str]:
    """The cgroups, whether RLIMIT_DATA may be used, and why not the cgroups."""
    is_linux = sys.platform == "linux"
    if wanted is HardLimits.OFF:
        return None, False, "configured"
    if not is_linux:
        if wanted is not HardLimits.AUTO:
            raise ConfigError(f'daemon.hard_limits is "{wanted.value}", and only Linux has it: use "auto" or "off"')
        return None, False, f"{sys.platform} has none"
    if wanted is HardLimits.RLIMIT:
        return None, True, "configured"
    try:
        cgroups = worker_cgroups(root, is_asked_for=wanted is HardLimits.CGROUP)
    except Unavailable as error:
        if wanted is HardLimits.CGROUP:
            raise ConfigError(
                f'daemon.hard_limits is "cgroup", but {error}; "auto" uses RLIMIT_DATA where there are no cgroups'
            ) from error
        return None, True, str(error)
    return cgroups, True, ""


class _SharedKills:
    """The kernel's count of kills in our own cgroup (or on the whole machine): whose death may be one of them.

    A kill that none of our processes claims within two calls of ``grow_old`` was somebody else's.
    """

    def __init__(self, count: Callable[[], int | None]) -> None:
        self._count = count
        self._seen = self._now()
        self._fresh = self._old = 0

    def _now(self) -> int:
        with contextlib.suppress(OSError):
            return self._count() or 0
        return 0

    def _look(self) -> None:
        now = self._now()
        self._fresh += max(0, now - self._seen)
        self._seen = max(now, self._seen)

    def explains_one(self) -> bool:
        """Whether there was a kill that is nobody's yet; it is then."""
        self._look()
        if self._old:
            self._old -= 1
            return True
        if self._fresh:
            self._fresh -= 1
            return True
        return False

    def grow_old(self) -> None:
        self._look()
        self._old, self._fresh = self._fresh, 0


def limit_data(pid: int, growth_bytes: int, slack_bytes: int) -> None:
    """The soft limit only, so that it can be raised again, and never lower than it was set before.

    Nothing where it is not ours to limit, or gone.
    """
    import resource  # noqa: PLC0415 - no such module on Windows, no prlimit on macOS

    try:
        held = _VM_DATA.search(Path(f"/proc/{pid}/status").read_text())
        if held is None:
            return
        before, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
        soft = int(held[1]) * 1024 + growth_bytes + slack_bytes
        soft = soft if before in (resource.RLIM_INFINITY, hard) else max(soft, before)
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        resource.prlimit(pid, resource.RLIMIT_DATA, (soft, hard))
    except OSError as error:  # another user's (EPERM), or ended
        log.debug(fields("not_limited", pid=pid, reason=error))
