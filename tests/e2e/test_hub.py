"""A model of the hub through the real daemon: fetched by a process of its own, served, and refused in its own words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import TinyBert
from tests.support.daemon import running_daemon
from tests.support.hub_server import Repository, running_hub


def test_hub_model_is_fetched_served_and_then_there_without_the_hub(
    socket_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = TinyBert().write(tmp_path / "tiny")
    models = [
        {"name": "far", "source": "hub:tiny/bert", "precision": "float32"},
        {"name": "near", "source": f"path:{folder}", "precision": "float32"},
        {"name": "nothing", "source": "hub:tiny/nothing"},
    ]
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    with running_hub() as hub:
        hub.repositories["tiny/bert"] = Repository.of_folder(folder)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with (
            running_daemon(socket_folder, models=models, engine="torch") as daemon,
            daemon.client(timeout_seconds=60) as client,
        ):
            states = {model["name"]: model["state"] for model in client.models()["models"]}
            assert states == {"far": "unknown", "near": "available", "nothing": "unknown"}
            assert client.embed_error(["a text"], model="nothing").code == "model_not_found"
            fetched = client.embed(["the cat sat"], model="far")
            assert np.allclose(fetched, client.embed(["the cat sat"], model="near"), atol=1e-6)
    with (
        running_daemon(socket_folder, models=models[:1], engine="torch") as daemon,
        daemon.client(timeout_seconds=60) as client,
    ):
        assert np.allclose(client.embed(["the cat sat"], model="far"), fetched, atol=1e-6)


def test_hub_that_cannot_be_reached_is_said_so_and_may_be_tried_again(
    socket_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    models = [{"name": "far", "source": "hub:tiny/bert"}]
    with (
        running_daemon(socket_folder, models=models, engine="torch") as daemon,
        daemon.client(timeout_seconds=60) as client,
    ):
        error = client.embed_error(["a text"], deadline_ms=50_000)
        assert error.code == "hub_unreachable"
        assert error.retryable
