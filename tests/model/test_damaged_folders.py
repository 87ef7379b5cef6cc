"""Damaged folders: each ends in an error of ours or in a model that serves finite vectors; nobody dies, hangs or grows.

150 of them in the ordinary run, 2,000 in ``make soak``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.waiting import seconds

PROGRAM = Path(__file__).parents[1] / "support" / "folder_fuzz.py"
GROWTH_BYTES = 512 * 1024 * 1024
"""Beyond what a process has that has loaded a tiny model."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the bound is RLIMIT_DATA, which counts all on Linux")


def outcomes(folder: Path, first: int, count: int, limit_seconds: float) -> list[dict[str, str]]:
    """Of so many folders, in one process of its own."""
    folder.mkdir()
    command = [sys.executable, str(PROGRAM), str(folder), str(first), str(count), str(GROWTH_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds(limit_seconds))
    found: list[dict[str, str]] = [json.loads(line) for line in done.stdout.splitlines()]
    last = found[-1] if found else None
    assert done.returncode == 0, f"died with {done.returncode} after {last}: {done.stderr[-3000:]}"
    assert len(found) == count
    return found


def check(found: list[dict[str, str]]) -> None:
    assert [each for each in found if each["outcome"].startswith("FAULT")] == []
    kinds = Counter(each["outcome"] for each in found)
    assert kinds["served"] > len(found) // 20, "hardly any damage is harmless: the folders are not good to begin with"
    assert kinds["refused model_corrupt"] > len(found) // 10, "hardly any damage is found"


def test_damaged_folders_end_in_an_error_or_in_a_model_that_works(tmp_path: Path) -> None:
    check(outcomes(tmp_path / "folders", 0, 150, 120))


@pytest.mark.soak
def test_two_thousand_damaged_folders(tmp_path: Path) -> None:
    found = [each for part in range(8) for each in outcomes(tmp_path / str(part), 250 * part, 250, 900)]
    check(found)
