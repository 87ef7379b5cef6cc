"""A wall clock that jumps, for the processes of one test: a library of ours (skewed_clock.c) between them and libc.

The machine's own clock stays as it is. Needs a C compiler; without one a test that asks for it is skipped.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")


class SkewedClock:
    """``launcher`` before a command gives it, and all that it starts, the clock of this object."""

    def __init__(self, folder: Path, compiler: str) -> None:
        library, self._file = folder / "skewed_clock.so", folder / "skewed_clock"
        command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(_SOURCE)]
        subprocess.run(command, check=True)
        self._file.write_bytes(bytes(mmap.PAGESIZE))
        with self._file.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.launcher = ("env", f"LD_PRELOAD={library}", f"SKEWED_CLOCK={self._file}")

    def jump_to(self, offset_seconds: int) -> None:
        """From now on the clock is so much ahead of the machine's, or behind it."""
        struct.pack_into("<q", self._page, 0, offset_seconds)

    def close(self) -> None:
        self._page.close()


def skewed_clock(folder: Path) -> SkewedClock | None:
    """None where nobody can compile it."""
    compiler = shutil.which("cc")
    return None if compiler is None else SkewedClock(folder, compiler)
