"""A memory cgroup of our own, made for one test and removed with all that was made below it. cgroup v1 only.

``launcher`` puts a program into it before its first instruction, so that all its memory is counted there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

_MOUNT = Path("/sys/fs/cgroup/memory")
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """Its folder, and what the kernel says in it."""

    folder: Path
    notice: int
    """An event file descriptor that the kernel writes to."""

    @property
    def launcher(self) -> tuple[str, ...]:
        """Put before a command: enters the group, then becomes the command."""
        return ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"))

    def has_run_out(self) -> bool:
        """Whether the kernel, since last asked, found nothing to take back at this group's limit: then somebody dies.

        Who dies at the limit of a group below it does not count here.
        """
        try:
            return os.eventfd_read(self.notice) > 0
        except BlockingIOError:
            return False

    @property
    def most_used_bytes(self) -> int:
        """With page cache, of which the limit makes the kernel take back."""
        return self._number("memory.max_usage_in_bytes")

    @property
    def times_at_limit(self) -> int:
        """How often the kernel had to take something back first."""
        return self._number("memory.failcnt")

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
    folder = _own_folder() / f"embeddaemon-test-{os.getpid()}-{next(_numbers)}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made: {error}")
    group = MemoryCgroup(folder, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    try:
        (folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
        with (folder / "memory.oom_control").open() as watched:
            (folder / "cgroup.event_control").write_text(f"{group.notice} {watched.fileno()}")
        yield group
    finally:
        group.remove()
        os.close(group.notice)


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
