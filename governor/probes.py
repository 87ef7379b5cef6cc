"""Reads memory limits, room and private bytes from the machine: the only I/O of the governor.

``SystemProbe`` reads /proc and cgroups v1, v2 and hybrid, ``PsutilProbe`` serves systems without /proc (macOS).
psutil alone does not know cgroups, so it is not used where /proc is there. Nothing is remembered between calls: limits
change while we run, and a whole sample costs less than a millisecond.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from embeddaemon.governor.samples import Limit, MemorySample

_KIB = 1024
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.EACCES, errno.EPERM}
_OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")


class Probe(Protocol):
    """The seam to the machine: SystemProbe and PsutilProbe behind it, and a fake in the tests.

    ``limit`` and ``sample`` raise OSError when the machine cannot be read, which is better than a wrong number.
    """

    def limit(self) -> Limit:
        """The smallest limit that applies to this process."""
        ...

    def sample(self, now: float) -> MemorySample:
        """What can still be taken at ``now`` (monotonic seconds) before some limit is hit."""
        ...

    def process_private_bytes(self, pid: int) -> int | None:
        """Bytes that only this process holds and nobody can reclaim; None if it is gone or cannot be read."""
        ...


def probe_for_this_machine() -> Probe:
    """The probe that works here."""
    return SystemProbe() if Path("/proc/meminfo").exists() else PsutilProbe()


class SystemProbe:
    """Linux. /proc and the cgroup mounts are looked for under ``root``: tests build a machine of files there."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._proc = root / "proc"

    def limit(self) -> Limit:
        """The smallest of the machine's memory and the limits of our cgroup and all its ancestors."""
        return min((room.limit for room in self._rooms()), key=lambda limit: limit.bytes)

    def sample(self, now: float) -> MemorySample:
        """The least room under any of these limits; room that others may take first counts too."""
        tightest = min(self._rooms(), key=lambda room: room.free_bytes)
        return MemorySample(now, tightest.free_bytes, tightest.limit)

    def process_private_bytes(self, pid: int) -> int | None:
        """Private dirty bytes.

        Not Pss_Anon: it is a share of what a forked process has in common with its relatives, so it starts at 126 MiB
        for a worker that holds 2, and jumps when a sibling dies. Not private clean pages: they come from files and a
        sample counts them as free, so as to be kept they must stay pending.
        """
        try:
            rollup = (self._proc / str(pid) / "smaps_rollup").read_text()
        except OSError:  # gone, a zombie (ESRCH), somebody else's, or a kernel without the file (gVisor, before 4.14)
            return None
        sizes = _numbers(rollup.replace(":", ""))
        private = sizes.get("Private_Dirty")
        return None if private is None else (private + sizes.get("Private_Hugetlb", 0)) * _KIB

    def _rooms(self) -> Iterator[_Room]:
        # Machine last: of equal limits min() takes the first, and the one that somebody set says more.
        for directory, path in self._own_and_ancestors("cgroup2"):
            yield from _rooms_of_v2(directory, path)
        levels = tuple(self._own_and_ancestors("cgroup"))
        for directory, path in levels:
            yield from _room_of_v1(directory, path)
        for directory, path in levels[-1:]:
            yield from _room_beyond_v1(directory, path)
        yield self._machine()

    def _machine(self) -> _Room:
        sizes = _numbers((self._proc / "meminfo").read_text().replace(":", ""))
        # MemAvailable came with 3.14; some sandboxes leave it out.
        estimate = sizes["MemFree"] + sizes.get("Active(file)", 0) + sizes.get("Inactive(file)", 0)
        available = sizes.get("MemAvailable", estimate)
        return _Room(Limit(sizes["MemTotal"] * _KIB, "machine MemTotal"), available * _KIB)

    def _own_and_ancestors(self, filesystem: str) -> Iterator[tuple[Path, PurePosixPath]]:
        """Directory and cgroup path of our memory cgroup and of every ancestor that is mounted here, ours first."""
        own = self._own_path(filesystem)
        mount = None if own is None else self._mount(filesystem, own)
        if own is None or mount is None:
            return
        below = _below(own, mount.top) or PurePosixPath()
        for relative in (below, *below.parents):
            yield self._root / mount.point.relative_to("/") / relative, mount.top / relative

    def _own_path(self, filesystem: str) -> PurePosixPath | None:
        """Our path in the hierarchy, from lines "ID:CONTROLLERS:PATH"; v2 has no controllers in its line."""
        for line in _read(self._proc / "self" / "cgroup").splitlines():
            controllers, _, path = line.partition(":")[2].partition(":")
            if (not controllers) if filesystem == "cgroup2" else ("memory" in controllers.split(",")):
                return PurePosixPath(path)
        return None

    def _mount(self, filesystem: str, own: PurePosixPath) -> _Mount | None:
        """The mount of the hierarchy through which we see most of our ancestors; without ours in view, any."""
        mounts = [mount for mount in self._mounts() if mount.filesystem == filesystem and mount.has_memory]
        in_view = [mount for mount in mounts if _below(own, mount.top) is not None]
        return min(in_view, key=lambda mount: len(mount.top.parts), default=mounts[0] if mounts else None)

    def _mounts(self) -> Iterator[_Mount]:
        # Each line reads: ID PARENT DEVICE ROOT POINT OPTIONS [OPTIONAL]... - TYPE SOURCE SUPEROPTIONS
        for line in _read(self._proc / "self" / "mountinfo").splitlines():
            left, separator, right = line.partition(" - ")
            before, after = left.split(), right.split()
            if separator and len(before) >= 5 and len(after) >= 3:
                has_memory = after[0] == "cgroup2" or "memory" in after[2].split(",")
                yield _Mount(after[0], _unescaped(before[3]), _unescaped(before[4]), has_memory)


class PsutilProbe:
    """Systems without /proc: no cgroups there, so the machine's own numbers are the whole truth."""

    def limit(self) -> Limit:
        """All memory of the machine."""
        import psutil  # noqa: PLC0415 - the supervisor imports this module and needs no psutil on Linux

        return Limit(psutil.virtual_memory().total, "machine memory")

    def sample(self, now: float) -> MemorySample:
        """What the system says is available."""
        import psutil  # noqa: PLC0415 - as above

        memory = psutil.virtual_memory()
        return MemorySample(now, memory.available, Limit(memory.total, "machine memory"))

    def process_private_bytes(self, pid: int) -> int | None:
        """Unique set size. Without forking, nothing else is shared but files."""
        import psutil  # noqa: PLC0415 - as above

        try:
            return psutil.Process(pid).memory_full_info().uss
        except psutil.Error:
            return None


@dataclass(frozen=True, slots=True)
class _Room:
    limit: Limit
    free_bytes: int


@dataclass(frozen=True, slots=True)
class _Mount:
    """``top`` is the cgroup path that appears at ``point``: "/" on a host, often our own cgroup in a container."""

    filesystem: str
    top: PurePosixPath
    point: PurePosixPath
    has_memory: bool


def _rooms_of_v2(directory: Path, path: PurePosixPath) -> Iterator[_Room]:
    current = _number(directory / "memory.current")
    if current is None:  # the real root, or the memory controller is not enabled down here
        return
    stat = _numbers(_read(directory / "memory.stat"))
    # Above memory.high the kernel does not kill but throttles until nothing moves: a limit for us.
    for name in ("memory.max", "memory.high"):
        if (limit := _number(directory / name)) is not None:
            yield _room(Limit(limit, f"cgroup v2 {name} of {path}"), current, stat)


def _room_of_v1(directory: Path, path: PurePosixPath) -> Iterator[_Room]:
    usage = _number(directory / "memory.usage_in_bytes")
    limit = _number(directory / "memory.limit_in_bytes")
    if usage is not None and limit is not None:  # unlimited reads as 2^63 less a page, and never is the smallest
        stat = _stat_of_v1(directory)
        yield _room(Limit(limit, f"cgroup v1 memory.limit_in_bytes of {path}"), usage, stat)


def _room_beyond_v1(directory: Path, path: PurePosixPath) -> Iterator[_Room]:
    """The smallest limit of the ancestors that are not mounted in this container, which only v1 tells.

    Their usage cannot be seen, so the room is an upper bound.
    """
    usage = _number(directory / "memory.usage_in_bytes")
    stat = _stat_of_v1(directory)
    if usage is not None and "hierarchical_memory_limit" in stat:
        limit = Limit(stat["hierarchical_memory_limit"], f"cgroup v1 hierarchical_memory_limit of {path}")
        yield _room(limit, usage, stat)


def _stat_of_v1(directory: Path) -> dict[str, int]:
    # "total_x" counts the children too, as the usage does; it replaces "x".
    stat = _numbers(_read(directory / "memory.stat"))
    return stat | {name.removeprefix("total_"): size for name, size in stat.items() if name.startswith("total_")}


def _room(limit: Limit, used: int, stat: Mapping[str, int]) -> _Room:
    # Cache is charged to the cgroup but given back on demand; active only means that it was read twice.
    cache = stat.get("inactive_file", 0) + stat.get("active_file", 0)
    return _Room(limit, max(0, limit.bytes - max(0, used - cache)))


def _numbers(text: str) -> dict[str, int]:
    """The second field of each line by its first, where it is a number."""
    fields = (line.split() for line in text.splitlines())
    return {each[0]: int(each[1]) for each in fields if len(each) >= 2 and each[1].isdecimal()}


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no file or no number ("max"), which both mean no limit."""
    text = _read(file).strip()
    return int(text) if text.isdecimal() else None


def _read(file: Path) -> str:
    """The text of a file; empty if it is not there, not ours to read, or its cgroup was just removed.

    Raises OSError for anything else: a file that cannot be read for lack of descriptors must not look like no limit.
    """
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        if error.errno in _NOT_THERE:
            return ""
        raise


def _below(own: PurePosixPath, top: PurePosixPath) -> PurePosixPath | None:
    """Our cgroup relative to what is mounted; None if it is not in view, as from inside another cgroup namespace."""
    below = own.relative_to(top) if own.is_relative_to(top) else None
    return None if below is None or ".." in below.parts else below


def _unescaped(text: str) -> PurePosixPath:
    """A path from mountinfo, where blanks are written in octal, after a backslash."""
    return PurePosixPath(_OCTAL_ESCAPE.sub(lambda escape: chr(int(escape[1], 8)), text))
