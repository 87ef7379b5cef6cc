"""`make test` runs two halves beside each other: what fails in either fails the run, and one summary counts both."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import halves
from tests.support.waiting import seconds

PROGRAM = Path(halves.__file__)
GOOD, BAD = "def test_one():\n    pass\n", "def test_two():\n    raise AssertionError('told to')\n"


@pytest.mark.parametrize(("computing", "waiting"), [(GOOD, GOOD), (BAD, GOOD), (GOOD, BAD)])
def test_run_is_as_good_as_the_worse_half_and_its_last_line_counts_both(
    tmp_path: Path, computing: str, waiting: str
) -> None:
    for folder in (*halves.WAITING, "tests/unit"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tests/unit/test_computing.py").write_text(computing)
    (tmp_path / halves.WAITING[0] / "test_waiting.py").write_text(waiting)
    done = run_in(tmp_path)
    is_bad = BAD in (computing, waiting)
    assert done.returncode == (1 if is_bad else 0), done.stdout + done.stderr
    *before, last = done.stdout.splitlines()
    counts = set(last.partition(" in ")[0].split(", "))
    assert counts == ({"1 failed", "1 passed"} if is_bad else {"2 passed"}), done.stdout
    assert re.search(r" in \d+\.\d\ds$", last)
    assert ("FAILED" in before[-1]) == is_bad


def test_named_tests_are_one_run_of_these(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(GOOD)
    (tmp_path / "test_two.py").write_text(BAD)
    done = run_in(tmp_path, "test_one.py::test_one")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("1 passed") == 1


@pytest.mark.parametrize(
    ("statuses", "status"),
    [((0, 0), 0), ((0, 5), 0), ((5, 0), 0), ((5, 5), 5), ((1, 0), 1), ((5, 2), 2), ((0, -11), -11)],
)
def test_half_in_which_nothing_was_selected_is_no_failure(statuses: tuple[int, int], status: int) -> None:
    assert halves.exit_status(*statuses) == status


def test_counts_of_both_halves_are_added_up_and_what_failed_is_named_again() -> None:
    waiting = "..F\nFAILED tests/a.py::test_b - assert 1 in 2.5s\n1 failed, 3 passed, 1 error in 2.50s\n"
    computing = "ERROR tests/c.py\n=== 2 failed, 4572 passed, 2 errors, 10 deselected in 654.67s (0:10:54) ===\n"
    assert halves.summary([waiting, computing], 700.0).splitlines() == [
        "FAILED tests/a.py::test_b - assert 1 in 2.5s",
        "ERROR tests/c.py",
        "3 failed, 4575 passed, 3 error, 10 deselected in 700.00s",
    ]


def test_half_that_was_killed_is_an_error_and_not_forgotten() -> None:
    assert halves.summary(["3 passed in 2.50s\n", "....Timeout (0:02:00)!\n"], 3.0).splitlines() == [
        "ERROR a half of the run ended before its last line",
        "3 passed, 1 error in 3.00s",
    ]


def test_folders_that_wait_are_there() -> None:
    assert all((PROGRAM.parents[2] / folder).is_dir() for folder in halves.WAITING)


def run_in(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Without plugins, which take longer than the tests."""
    return subprocess.run(
        [sys.executable, str(PROGRAM), "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(60),
    )
