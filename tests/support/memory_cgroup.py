"""A memory cgroup of our own, made for one test and removed with all that was made below it. cgroup v1 only.

``launcher`` puts a program into it before its first instruction, so that all its memory is counted there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

_MOUNT = Path("/sys/fs/cgroup/memory")


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """Its folder, and what the kernel says in it."""

    folder: Path

    @property
    def launcher(self) -> tuple[str, ...]:
        """Put before a command: enters the group, then becomes the command."""
        return ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"))

    @property
    def oom_kills(self) -> int:
        """Processes that the kernel killed here or below."""
        return sum(
            int(value)
            for file in (self.folder, *self.below())
            for key, value in (line.split() for line in (file / "memory.oom_control").read_text().splitlines())
            if key == "oom_kill"
        )

    @property
    def most_used_bytes(self) -> int:
        """With page cache, of which the limit makes the kernel take back."""
        return self._number("memory.max_usage_in_bytes")

    @property
    def times_at_limit(self) -> int:
        """How often the kernel had to take something back first."""
        return self._number("memory.failcnt")

    @property
    def held_bytes(self) -> int:
        """Anonymous memory now, of here and below."""
        counts = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        return int(counts["total_rss"])

    def pids(self) -> list[int]:
        """Everybody in it and below."""
        return [
            int(pid) for folder in (self.folder, *self.below()) for pid in (folder / "cgroup.procs").read_text().split()
        ]

    def _number(self, name: str) -> int:
        return int((self.folder / name).read_text())

    def below(self) -> list[Path]:
        """Folders of groups below it, the deepest first."""
        return sorted((path for path in self.folder.rglob("*") if path.is_dir()), reverse=True)

    def remove(self) -> None:
        """With what is below it; whoever is still inside is waited for."""
        wait_until(lambda: not self.pids(), 5, describe=self.pids)
        for folder in (*self.below(), self.folder):
            folder.rmdir()


@contextlib.contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[MemoryCgroup]:
    """A new one below our own with that limit; skips the test, saying why, where that is not possible."""
    folder = _own_folder() / f"embeddaemon-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made: {error}")
    group = MemoryCgroup(folder)
    try:
        (folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
        yield group
    finally:
        group.remove()


def _own_folder() -> Path:
    """Ours, in the hierarchy of version 1."""
    try:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        pytest.skip("no cgroups here")
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            folder = _MOUNT / path.lstrip("/")
            if (folder / "memory.limit_in_bytes").exists():
                return folder
            pytest.skip(f"our memory cgroup is not where {_MOUNT} has it: {path}")
    pytest.skip("no memory controller of cgroup version 1")
