"""The memory cgroups that we are in, v1, v2 and hybrid: what they limit, and whom the kernel ended in them. I/O.

Nothing but our first cgroup is remembered between calls: limits change while we run, and so may our place.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from embeddaemon.governor.kernel_files import number, numbers, read
from embeddaemon.governor.samples import Limit

V1 = "cgroup"
V2 = "cgroup2"

SUPERVISOR_LEAF = "supervisor"
"""The v2 cgroup for the supervisor alone, in the one that was delegated to it."""

_OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")
# Unlimited v1 reads as 2^63 less a page, whatever the size of a page.
_UNLIMITED_V1_BYTES = 2**62


@dataclass(frozen=True, slots=True)
class Room:
    """A limit and the bytes that can still be taken below it."""

    limit: Limit
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Level:
    """A cgroup that we see: its folder, and its path in the hierarchy."""

    directory: Path
    path: PurePosixPath


class Cgroups:
    """The cgroups of this process. /proc and the mounts are looked for under ``root``: tests build them of files."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._places: dict[tuple[Path, PurePosixPath], PurePosixPath | None] = {}
        self._first = {V1: self._own_path(V1), V2: self._own_path(V2)}

    def rooms(self) -> Iterator[Room]:
        """One for each limit on memory of our own cgroup and of its ancestors.

        Swap is no room: a model that is swapped out answers in seconds. Only a v1 limit on memory and swap together
        counts, since what lies in swap already is charged to it.
        """
        for level in self._levels(V2):
            yield from _rooms_of_v2(level)
        levels = self._levels(V1)
        for level in levels:
            yield from _rooms_of_v1(level)
        for level in levels[-1:]:
            yield from _rooms_beyond_v1(level)

    def own(self, filesystem: str) -> Level | None:
        """The one that we are in, V1 or V2; None where memory has none, or it cannot be seen from here."""
        path = self._own_path(filesystem)
        return next((level for level in self._levels(filesystem) if level.path == path), None)

    def pressure_file(self) -> Path | None:
        """The PSI of our own cgroup, with all below it. The real root has none of its own: its file is the machine's.

        There wherever v2 is mounted, even if memory is limited by v1.
        """
        level = self._ours(V2)
        if level is None or not (level.directory / "cgroup.events").exists():
            return None
        return level.directory / "memory.pressure"

    def kernel_kills(self) -> int | None:
        """Processes that the kernel ended for lack of memory in our own cgroup; None where it does not count them.

        v2 counts those in cgroups below it too, v1 does not.
        """
        for filesystem, name in ((V2, "memory.events"), (V1, "memory.oom_control")):
            level = self._ours(filesystem)
            kills = None if level is None else numbers(read(level.directory / name)).get("oom_kill")
            if kills is not None:
                return kills
        return None

    def _ours(self, filesystem: str) -> Level | None:
        """The cgroup that we found ourselves in first, as long as we are in it or below; else the one that we are in.

        The supervisor moves itself into a leaf where it makes cgroups for workers beside it, or systemd puts it into
        that leaf (DelegateSubgroup=): then the cgroup around the leaf is ours, with the workers' trouble.
        """
        own, levels = self._own_path(filesystem), self._levels(filesystem)
        wanted = (self._first[filesystem], own)
        place = next((place for path in wanted for place, level in enumerate(levels) if level.path == path), None)
        if place is None:
            return None
        above = levels[place + 1 : place + 2]
        is_leaf = levels[place].path.name == SUPERVISOR_LEAF and above and is_delegated(above[0].directory)
        return above[0] if is_leaf else levels[place]

    def _levels(self, filesystem: str) -> tuple[Level, ...]:
        """Our memory cgroup and every ancestor that is mounted here, ours first; what is mounted if ours is not."""
        own = self._own_path(filesystem)
        mount = None if own is None else self._mount(filesystem, own)
        if own is None or mount is None:
            return ()
        point = self._root / mount.point.relative_to("/")
        below = _below(own, mount.top) or self._found(own, mount, point)
        if below is None:
            return (Level(point, mount.top),)
        folders = (point / relative for relative in (below, *below.parents))
        return tuple(Level(folder, _ancestor(own, height)) for height, folder in enumerate(folders))

    def _found(self, own: PurePosixPath, mount: _Mount, point: Path) -> PurePosixPath | None:
        """Our cgroup below a mount of another cgroup namespace ("/../.."): its name is hidden, who is in it is not.

        Every cgroup at its depth is looked at, so only once.
        """
        if ".." in own.parts or mount.top == PurePosixPath("/") or set(mount.top.parts[1:]) != {".."}:
            return None
        place = (point, own)
        if place not in self._places:
            below_root = own.relative_to("/")
            folders = (folder / below_root for folder in point.glob("/".join(mount.top.parts[1:]).replace("..", "*")))
            ours = (folder for folder in folders if str(os.getpid()) in read(folder / "cgroup.procs").split())
            found = next(ours, None)
            self._places[place] = None if found is None else PurePosixPath(found.relative_to(point))
        return self._places[place]

    def _own_path(self, filesystem: str) -> PurePosixPath | None:
        """Our path in the hierarchy, from lines "ID:CONTROLLERS:PATH"; v2 has no controllers in its line."""
        for line in read(self._root / "proc/self/cgroup").splitlines():
            controllers, _, path = line.partition(":")[2].partition(":")
            if (not controllers) if filesystem == V2 else ("memory" in controllers.split(",")):
                return PurePosixPath(path)
        return None

    def _mount(self, filesystem: str, own: PurePosixPath) -> _Mount | None:
        """The mount of the hierarchy through which we see most of our ancestors; without ours in view, any."""
        mounts = [mount for mount in self._mounts() if mount.filesystem == filesystem and mount.has_memory]
        in_view = [mount for mount in mounts if _below(own, mount.top) is not None]
        return min(in_view, key=lambda mount: len(mount.top.parts), default=mounts[0] if mounts else None)

    def _mounts(self) -> Iterator[_Mount]:
        # Each line reads: ID PARENT DEVICE ROOT POINT OPTIONS [OPTIONAL]... - TYPE SOURCE SUPEROPTIONS
        for line in read(self._root / "proc/self/mountinfo").splitlines():
            left, _, right = line.partition(" - cgroup")
            before, after = left.split(), ("cgroup" + right).split()
            if right and len(before) >= 5 and len(after) >= 3:
                has_memory = after[0] == V2 or "memory" in after[2].split(",")
                yield _Mount(after[0], _unescaped(before[3]), _unescaped(before[4]), has_memory)


@dataclass(frozen=True, slots=True)
class _Mount:
    """``top`` is the cgroup path that appears at ``point``: "/" on a host, often our own cgroup in a container."""

    filesystem: str
    top: PurePosixPath
    point: PurePosixPath
    has_memory: bool


def _rooms_of_v2(level: Level) -> Iterator[Room]:
    # Above memory.high the kernel does not kill but throttles until nothing moves: a limit for us.
    limits = {name: number(level.directory / name) for name in ("memory.max", "memory.high")}
    set_limits = {name: limit for name, limit in limits.items() if limit is not None}
    if not set_limits:
        return
    current = number(level.directory / "memory.current")
    if current is None:  # removed meanwhile
        return
    stat = numbers(read(level.directory / "memory.stat"))
    for name, limit in set_limits.items():
        yield _room(Limit(limit, f"cgroup v2 {name} of {level.path}"), current, stat)


@dataclass(frozen=True, slots=True)
class _KindOfV1:
    """The files of one limit, and the name in memory.stat of the smallest such limit of all ancestors."""

    limit: str
    usage: str
    of_ancestors: str


_KINDS_OF_V1 = (
    _KindOfV1("memory.limit_in_bytes", "memory.usage_in_bytes", "hierarchical_memory_limit"),
    _KindOfV1("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes", "hierarchical_memsw_limit"),
)


def _rooms_of_v1(level: Level) -> Iterator[Room]:
    limits = {kind: number(level.directory / kind.limit) for kind in _KINDS_OF_V1}
    for kind, limit in limits.items():
        if limit is not None:
            yield from _room_of_v1(level, kind, Limit(limit, f"cgroup v1 {kind.limit} of {level.path}"))


def _rooms_beyond_v1(level: Level) -> Iterator[Room]:
    """The smallest limit of the ancestors that are not mounted in this container, which only v1 tells.

    Their usage cannot be seen, so the room is an upper bound.
    """
    stat = _stat_of_v1(level)
    for kind in _KINDS_OF_V1:
        if (limit := stat.get(kind.of_ancestors)) is not None:
            yield from _room_of_v1(level, kind, Limit(limit, f"cgroup v1 {kind.of_ancestors} of {level.path}"))


def _room_of_v1(level: Level, kind: _KindOfV1, limit: Limit) -> Iterator[Room]:
    if limit.bytes >= _UNLIMITED_V1_BYTES:
        return
    usage = number(level.directory / kind.usage)
    if usage is not None:
        yield _room(limit, usage, _stat_of_v1(level))


def _stat_of_v1(level: Level) -> dict[str, int]:
    # "total_x" counts the children too, as the usage does; it replaces "x".
    stat = numbers(read(level.directory / "memory.stat"))
    return stat | {name.removeprefix("total_"): size for name, size in stat.items() if name.startswith("total_")}


def _room(limit: Limit, used: int, stat: Mapping[str, int]) -> Room:
    # Cache is charged to the cgroup but given back on demand; active only means that it was read twice. So are the
    # kernel's own caches of names and files, which only v2 tells.
    cache = stat.get("inactive_file", 0) + stat.get("active_file", 0) + stat.get("slab_reclaimable", 0)
    return Room(limit, max(0, limit.bytes - max(0, used - cache)))


def _below(own: PurePosixPath, top: PurePosixPath) -> PurePosixPath | None:
    """Our cgroup relative to what is mounted; None if it is not in view, as from inside another cgroup namespace."""
    below = own.relative_to(top) if own.is_relative_to(top) else None
    return None if below is None or ".." in below.parts else below


def _ancestor(own: PurePosixPath, height: int) -> PurePosixPath:
    """The path of a cgroup so many levels above ours; above the root of our namespace the kernel writes ".."."""
    parts = own.parts[1:]
    beyond = max(0, height - len(parts))
    return PurePosixPath("/", *parts[: max(0, len(parts) - height)], *[".."] * beyond)


def is_delegated(directory: Path) -> bool:
    """Whether systemd marked a cgroup as given to us."""
    for mark in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError, AttributeError):  # not marked; a system without such marks
            if os.getxattr(directory, mark) == b"1":
                return True
    return False


def _unescaped(text: str) -> PurePosixPath:
    """A path from mountinfo, where blanks are written in octal, after a backslash."""
    return PurePosixPath(_OCTAL_ESCAPE.sub(lambda escape: chr(int(escape[1], 8)), text))
