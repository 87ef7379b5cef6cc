"""A memory cgroup for each worker, v1 or v2: made, limited, asked how its process died, removed. I/O.

    v1   OWN/embeddaemon-NS-PID/CHILD    processes may live at every level, so we stay where we are
    v2   BASE/supervisor                 ourselves, the fork server, templates: processes may live in leaves only
         BASE/embeddaemon-NS-PID/CHILD   BASE was delegated to us (systemd: Delegate=memory)

NS is the number of our pid namespace: containers may share a cgroup and have daemons of the same pid.

A worker enters its folder itself, first thing (``workers.guard.enter_cgroup``): memory that it takes from then on
counts there, what it inherited does not. Moving another process would stop the loop for 10 to 25 ms, because the
kernel then waits for every processor. Only the limit is set from here, which takes microseconds. If cgroups are used
at all is decided in hard_limits.py.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from embeddaemon.governor.cgroups import SUPERVISOR_LEAF, V1, V2, Cgroups, is_delegated
from embeddaemon.governor.kernel_files import number, numbers, read
from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)

_FOLDER = re.compile(r"embeddaemon-(?P<namespace>\d+)-(?P<pid>\d+)")
_NAMESPACE = re.compile(r"pid:\[(\d+)\]")

_NO_LIMIT_ABOVE = 1 << 60

_NEAR_BYTES = 1024 * 1024
"""A peak so close to the limit has reached it: the kernel charges pages by the batch."""


class Unavailable(Exception):
    """No cgroup can be made here; says why."""


@dataclass(frozen=True, slots=True)
class _Files:
    """What the two versions call the same things."""

    version: str
    usage: str
    limit: str


_V1 = _Files("cgroup v1", "memory.usage_in_bytes", "memory.limit_in_bytes")
_V2 = _Files("cgroup v2", "memory.current", "memory.max")
_V1_WITH_SWAP = "memory.memsw.limit_in_bytes"
_V1_PEAKS = ("memory.max_usage_in_bytes", "memory.memsw.max_usage_in_bytes")


class WorkerCgroups:
    """The cgroups of one supervisor's workers, by child number. Nothing here waits."""

    def __init__(self, files: _Files, base: Path, proc: Path) -> None:
        self._files = files
        self._folder = base / folder_name(proc, os.getpid())
        self._left: set[Path] = set()
        """Folders that could not be removed yet: for a moment after the reap that is normal."""
        self._remove_leftovers(base, proc)
        self._try_out()

    @property
    def version(self) -> str:
        return self._files.version

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def is_counted_above(self) -> bool:
        """Whether the kernel counts a kill in here in our own cgroup too."""
        return self._files is _V2

    def _remove_leftovers(self, base: Path, proc: Path) -> None:
        """Of supervisors that were killed, also of one that had our pid. None goes that a process lives in.

        Whether those of another pid namespace live, we cannot see: their folders stay.
        """
        for folder in base.glob("embeddaemon-*"):
            name = _FOLDER.fullmatch(folder.name)
            if name is None or int(name["namespace"]) != _pid_namespace(proc):
                continue
            if int(name["pid"]) == os.getpid() or not (proc / name["pid"]).exists():
                self._left |= _with_children(folder)
        self.tidy()

    def _try_out(self) -> None:
        """Raises Unavailable if a limit cannot be set here."""
        trial = self.make(0)
        try:
            if not os.access(trial / "cgroup.procs", os.W_OK):
                raise Unavailable(f"{trial} was made, but no process can enter it")
            _write(trial / self._files.limit, _unlimited(self._files))
        except OSError as error:
            raise Unavailable(f"no limit can be set in {trial}: {error.strerror}") from error
        finally:
            self._left.add(self._folder)  # made again for the first worker
            self.remove(0)

    def make(self, child: int) -> Path:
        """The folder for a worker that is about to be started. Raises Unavailable."""
        folder = self._folder / str(child)
        self._left -= {folder, self._folder}
        try:
            self._folder.mkdir(exist_ok=True)
            if self._files is _V2:
                _write(self._folder / "cgroup.subtree_control", "+memory")
            folder.mkdir(exist_ok=True)
            self._prepare(folder)
        except OSError as error:
            raise Unavailable(f"{folder} cannot be made: {error.strerror}") from error
        return folder

    def _prepare(self, folder: Path) -> None:
        """Without a limit yet: what it takes to load is another matter than what it takes to serve."""
        if self._files is _V1:
            _write(folder / "memory.oom_control", "0")  # inherited, 1 would stop it at the limit instead of ending it
        elif (swap := folder / "memory.swap.max").exists():
            _write(swap, "0")  # or it would grow into swap beyond its limit

    def is_inside(self, child: int) -> bool:
        """Whether the worker has entered its folder."""
        return bool(read(self._folder / str(child) / "cgroup.procs").strip())

    def limit(self, child: int, growth_bytes: int) -> None:
        """From what it holds now it may grow by so many bytes, and as far as it might before. Raises OSError.

        Between the heartbeat that a limit follows and now a worker may have given back what it held at its peak.
        Pages of files count too where it was the first to read them; the kernel gives those back before it kills.
        """
        folder = self._folder / str(child)
        before = number(folder / self._files.limit) or 0  # v2 says "max" where v1 has a number without meaning
        bound = int(read(folder / self._files.usage)) + growth_bytes
        bound = bound if before > _NO_LIMIT_ABOVE else max(bound, before)
        if self._files is _V2:
            _write(folder / _V2.limit, str(bound))
            return
        names = [name for name in (_V1.limit, _V1_WITH_SWAP) if (folder / name).exists()]
        if bound > (number(folder / _V1.limit) or 0):
            names.reverse()  # memory alone never has a higher limit than memory and swap together
        for name in names:
            _write(folder / name, str(bound))
        for name in _V1_PEAKS:
            if (folder / name).exists():
                _write(folder / name, "0")  # the peak is to be one under this limit

    def kernel_kill(self, child: int) -> bool | None:
        """None unless the kernel killed it for lack of memory; then whether its own limit was the reason.

        The count of kills is of the processes in here, whoever ran out of memory: we, those above us, the machine.
        """
        folder = self._folder / str(child)
        if self._files is _V2:
            events = numbers(read(folder / "memory.events"))
            return bool(events.get("oom", 0)) if events.get("oom_kill", 0) else None
        if not numbers(read(folder / "memory.oom_control")).get("oom_kill", 0):
            return None
        # failcnt stays 0 on some kernels, so the peak has to tell.
        peaks = {name: number(folder / f"{name}.max_usage_in_bytes") for name in ("memory", "memory.memsw")}
        limits = {name: number(folder / f"{name}.limit_in_bytes") for name in peaks}
        return any((peaks[name] or 0) + _NEAR_BYTES >= limit for name, limit in limits.items() if limit is not None)

    def remove(self, child: int) -> None:
        """After the reap. Where the kernel is not through with the process yet, ``tidy`` does it."""
        self._left.add(self._folder / str(child))
        self.tidy()

    def tidy(self) -> None:
        """Another try for what could not be removed."""
        for folder in sorted(self._left, reverse=True):  # children before parents
            if _is_removed(folder):
                self._left.discard(folder)

    def close(self) -> None:
        """The last try. What is still there, whoever comes next removes."""
        self._left |= _with_children(self._folder)
        self.tidy()


@dataclass(frozen=True, slots=True)
class Place:
    """Where cgroups for workers may be made: in ``base``. ``own`` is the folder of the one that we are in."""

    files: _Files
    base: Path
    own: Path

    @property
    def version(self) -> str:
        return self.files.version


def find_place(root: Path = Path("/"), *, is_asked_for: bool) -> Place:
    """Looks and changes nothing. Raises Unavailable where none may be made.

    ``is_asked_for``: somebody says that we may, so no proof is needed that our cgroup was delegated to us.
    """
    cgroups = Cgroups(root)
    if (level := cgroups.own(V1)) is not None:
        if number(level.directory / "memory.use_hierarchy") == 0:
            raise Unavailable(f"{level.path}: memory.use_hierarchy is 0, so workers would escape the limits above us")
        return Place(_V1, level.directory, level.directory)
    level = cgroups.own(V2)
    if level is None:
        raise Unavailable("no memory cgroup of ours is mounted")
    own = level.directory
    base = own.parent if own.name == SUPERVISOR_LEAF and is_delegated(own.parent) else own
    # The root of a cgroup namespace belongs to whoever is in there.
    if not (is_asked_for or is_delegated(base) or level.path == PurePosixPath("/")):
        raise Unavailable(f"{level.path} was not delegated to us (systemd: Delegate=memory)")
    if "memory" not in read(base / "cgroup.controllers").split():
        raise Unavailable(f"{base} has no memory controller (systemd: Delegate=memory)")
    return Place(_V2, base, own)


def worker_cgroups(root: Path = Path("/"), *, is_asked_for: bool) -> WorkerCgroups:
    """As ``find_place``. Under v2 moves this process, so to be called before it starts any."""
    place = find_place(root, is_asked_for=is_asked_for)
    if place.files is _V2:
        _move_into_leaf(place.base, place.own)
    return WorkerCgroups(place.files, place.base, root / "proc")


def _move_into_leaf(base: Path, own: Path) -> None:
    """Out of ``base``, which may then have controlled children: all or nothing. Raises Unavailable."""
    leaf = base / SUPERVISOR_LEAF
    try:
        if own == base:
            leaf.mkdir(exist_ok=True)
            _write(leaf / "cgroup.procs", "0")
        _write(base / "cgroup.subtree_control", "+memory")
    except OSError as error:
        if own == base:
            with contextlib.suppress(OSError):
                _write(base / "cgroup.procs", "0")
            _is_removed(leaf)
        others = " (other processes live in it)" if error.errno == errno.EBUSY else ""
        raise Unavailable(f"{base} cannot have cgroups for workers: {error.strerror}{others}") from error


def folder_name(proc: Path, pid: int) -> str:
    """Of the folder that holds the cgroups of the workers of the supervisor with that pid, in our pid namespace."""
    return f"embeddaemon-{_pid_namespace(proc)}-{pid}"


def _pid_namespace(proc: Path) -> int:
    """Its number, of which no other that lives has the same; 0 where the kernel has no namespaces."""
    try:
        found = _NAMESPACE.fullmatch(str((proc / "self/ns/pid").readlink()))
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _with_children(folder: Path) -> set[Path]:
    """It and those below it; one that is gone is removed in no time."""
    children: set[Path] = set()
    with contextlib.suppress(OSError):  # another daemon that starts now removes the same
        children.update(path for path in folder.iterdir() if path.is_dir())
    return {folder, *children}


def _is_removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        log.debug(fields("cgroup_not_removed", folder=folder, reason=error.strerror))
        return False
    return True


def _unlimited(files: _Files) -> str:
    return "-1" if files is _V1 else "max"


def _write(path: Path, text: str) -> None:
    path.write_text(text)
