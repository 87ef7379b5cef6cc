"""The storm of benchmarks/bench_governor.py in its short form: every promise of the governor is kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import seconds

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
def test_governor_keeps_every_promise_in_a_storm(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "benchmarks.bench_governor", "--minutes", "0.5", "--keep-log", str(log)]
    storm = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds(900), check=False)
    sys.stdout.write(storm.stdout)
    assert storm.returncode == 0, storm.stdout + storm.stderr
    assert "every promise kept" in storm.stdout
