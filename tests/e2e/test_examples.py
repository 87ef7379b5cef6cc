"""The examples run as they stand, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.waiting import seconds

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def run(name: str, *arguments: str, program: str | None = None) -> str:
    command = [sys.executable, "-c", program] if program else [sys.executable, f"examples/{name}"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=seconds(120),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_quickstart_finds_what_belongs_together() -> None:
    printed = run("quickstart.py")
    for words in (
        "The landlord must return the deposit",
        "The kernel kills the largest process",
        "MiB used",
        "Stopped",
    ):
        assert words in printed


def test_configuration_shows_values_and_a_mistake() -> None:
    printed = run("configuration.py")
    assert "# flag --memory-budget" in printed
    assert "models.notes.estimate = 0" in printed


def test_errors_shows_each_with_its_code() -> None:
    printed = run("errors.py")
    for code in (
        "unknown_model",
        "unknown_task",
        "unknown_dimensions",
        "invalid_input",
        "text_too_long",
        "unreachable",
    ):
        assert code in printed
    assert "after all that: ndarray" in printed


def test_simple_and_batch_work_with_a_running_daemon(tmp_path: Path) -> None:
    texts, vectors = tmp_path / "texts.txt", tmp_path / "vectors.f32"
    texts.write_text("one\n\ntwo\nthree\n")
    # A private daemon stands in for the one that these two expect to run already.
    program = f"""
import os, subprocess, sys, embeddaemon
with embeddaemon.local() as client:
    environment = os.environ | {{"EMBEDDAEMON_ENDPOINT": client.endpoint}}
    for command in (["examples/simple.py"], ["examples/batch.py", {str(texts)!r}, {str(vectors)!r}]):
        subprocess.run([sys.executable, *command], env=environment, check=True)
"""
    printed = run("simple.py", program=program)
    assert "3 vectors of 384 numbers, float32" in printed
    assert np.fromfile(vectors, "float32").reshape(3, 384).shape == (3, 384)
