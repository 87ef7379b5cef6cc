"""The whole suite as two runs of pytest beside each other: ``python -m tests.support.halves [OPTIONS OF PYTEST]``.

The tests of one half start daemons and wait for them; those of the other compute in one process. The half that waits
has the first claim to the processor: the other one is nice, takes what it leaves, and so costs hardly any time. Neither
shares anything with the other: sockets, state and temporary folders are each run's own.

Where OPTIONS name a file or a folder of tests, it is one run of just these.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

WAITING = ("tests/contract", "tests/integration", "tests/e2e", "tests/chaos")
"""Everything that is not in here computes: a new folder of tests belongs there until somebody says otherwise."""

NICENESS = 5
"""A quarter of a processor is left where two want it: enough that no test of the nice half stands still for long."""

STANDSTILL_SECONDS = 600
"""After which pytest ends the nice half, instead of the two minutes of the other."""

NO_TESTS = 5
"""Pytest's exit status where nothing was selected: of one half that is no failure."""

_SUMMARY = re.compile(r"^=*\s*(?:\d+ [a-z]+, )*(?:\d+ [a-z]+|no tests ran) in [\d.]+s", re.MULTILINE)
_COUNT = re.compile(r"(\d+) ([a-z]+)")
_BAD = re.compile(r"^(?:FAILED|ERROR) .*$", re.MULTILINE)


def main(options: Sequence[str]) -> int:
    """Run, show the output of one half and then of the other, and end with one summary of both."""
    pytest = [sys.executable, "-m", "pytest", *options]
    if any(Path(option.partition("::")[0]).exists() for option in options):
        return subprocess.run(pytest, check=False).returncode
    begun = time.monotonic()
    with tempfile.TemporaryFile() as kept:
        command = ["nice", "-n", str(NICENESS), *pytest, *(f"--ignore={folder}" for folder in WAITING)]
        command += ["-o", f"faulthandler_timeout={STANDSTILL_SECONDS}"]
        computing = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=kept, stderr=subprocess.STDOUT)
        with subprocess.Popen([*pytest, *WAITING], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as waiting:
            assert waiting.stdout is not None
            said = [_shown(waiting.stdout)]
        computing.wait()
        os.lseek(kept.fileno(), 0, os.SEEK_SET)
        said.append(_shown(kept))
    sys.stdout.write(summary(said, time.monotonic() - begun))
    return exit_status(waiting.returncode, computing.returncode)


def exit_status(*halves: int) -> int:
    """The first that is bad; that nothing was selected is bad only where it is so of all."""
    ran = [status for status in halves if status != NO_TESTS]
    return next((status for status in ran if status), 0) if ran else NO_TESTS


def summary(halves: Sequence[str], duration: float) -> str:
    """What failed in either half, and a last line as pytest's with the counts of both; a half cut short is an error."""
    counts: Counter[str] = Counter()
    for said in halves:
        last = _SUMMARY.findall(said)
        for number, kind in _COUNT.findall(last[-1].rpartition(" in ")[0]) if last else [("1", "error")]:
            counts[kind.removesuffix("s")] += int(number)
    bad = [line for said in halves for line in _BAD.findall(said)]
    bad += ["ERROR a half of the run ended before its last line" for said in halves if not _SUMMARY.search(said)]
    found = ", ".join(f"{number} {kind}" for kind, number in counts.items()) or "no tests ran"
    return "\n".join([*bad, f"{found} in {duration:.2f}s", ""])


def _shown(output: IO[bytes]) -> str:
    """Passed on as it comes."""
    said = b""
    while chunk := os.read(output.fileno(), 65536):
        said += chunk
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    return said.decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
