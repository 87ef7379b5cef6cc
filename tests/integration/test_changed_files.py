"""A served model's files change while it is asked, and processes die by SIGBUS: no answer is lost or mixed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from embeddaemon import Client
from tests.support.checkpoints import TinyBert, save_weights
from tests.support.daemon import RunningDaemon, running_daemon, stub_folder
from tests.support.embedding import embedder_of
from tests.support.waiting import seconds, wait_until

TEXT = "the red planet"
WEIGHTS = "model.safetensors"
CHECK_SECONDS = 0.2


def rename_over(folder: Path, seed: int) -> None:
    save_weights(folder / "new", TinyBert(seed=seed).tensors())
    (folder / "new").rename(folder / WEIGHTS)


def overwrite_in_place(folder: Path, seed: int) -> None:
    """The same file, byte by byte, in several writes."""
    save_weights(folder / "new", TinyBert(seed=seed).tensors())
    content = (folder / "new").read_bytes()
    with (folder / WEIGHTS).open("r+b", buffering=0) as file:
        for start in range(0, len(content), 4096):
            file.write(content[start : start + 4096])


def vector_of(folder: Path, seed: int) -> np.ndarray:
    """What the model with these weights gives, computed without a daemon."""
    vector: np.ndarray = embedder_of(TinyBert(seed=seed).write(folder / f"seed-{seed}")).embed([TEXT])[0]
    return vector


@contextmanager
def asked_all_the_time(endpoint: str, answers: list[np.ndarray]) -> Iterator[None]:
    """A client that asks until the block ends; whatever goes wrong is raised at its end."""
    is_over = threading.Event()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            with Client(endpoint, timeout=seconds(20)) as client:
                while not is_over.is_set():
                    answers.append(client.embed(TEXT))
        except BaseException as error:  # noqa: BLE001 - a thread's boundary
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert not failures, failures


def is_close(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.abs(left - right).max() < 1e-4)


def test_weights_that_change_under_load_are_taken_over_and_every_answer_is_of_one_of_the_models(
    tmp_path: Path, socket_folder: Path
) -> None:
    folder = TinyBert(seed=1).write(tmp_path / "model")
    vectors = {seed: vector_of(tmp_path, seed) for seed in (1, 2, 3)}
    model = {"name": "tiny", "source": f"path:{folder}", "precision": "float32"}
    answers: list[np.ndarray] = []
    with running_daemon(
        socket_folder, engine="torch", models=[model], file_check_seconds=CHECK_SECONDS, cache_bytes=1 << 20
    ) as running:

        def serves(seed: int) -> Callable[[], bool]:
            return lambda: bool(answers) and is_close(answers[-1], vectors[seed])

        with asked_all_the_time(running.endpoint, answers):
            wait_until(serves(1), 20, describe=running.output)
            for seed, change in ((2, rename_over), (3, overwrite_in_place)):
                change(folder, seed)
                wait_until(serves(seed), 20, describe=running.output)
        status = running.status()
    assert all(any(is_close(answer, vector) for vector in vectors.values()) for answer in answers)
    first = {seed: next(i for i, answer in enumerate(answers) if is_close(answer, vectors[seed])) for seed in vectors}
    assert first[1] < first[2] < first[3]
    assert is_close(answers[-1], vectors[3])
    assert status["requests"]["failed"] == status["requests"]["refused"] == 0


def test_weights_that_are_bad_leave_the_old_ones_serving_and_are_told_beside_ready(
    tmp_path: Path, socket_folder: Path
) -> None:
    folder = TinyBert(seed=1).write(tmp_path / "model")
    model = {"name": "tiny", "source": f"path:{folder}", "precision": "float32"}
    with (
        running_daemon(socket_folder, engine="torch", models=[model], file_check_seconds=CHECK_SECONDS) as running,
        Client(running.endpoint, timeout=seconds(20)) as client,
    ):
        before = client.embed(TEXT)
        (worker,) = [process.pid for process in running.named("ed-worker")]
        os.truncate(folder / WEIGHTS, 10_000)  # what was mapped would be a SIGBUS now
        wait_until(lambda: client.status()["models"][0]["error"] is not None, 20, describe=running.output)
        (shown,) = client.models()
        assert shown.state == "ready"
        assert "cut short" in (shown.error or "")
        np.testing.assert_array_equal(client.embed(TEXT), before)
        assert [process.pid for process in running.named("ed-worker")] == [worker]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are told by their names")
def test_sigbus_is_a_fault_of_the_weights_and_successors_answer(tmp_path: Path, socket_folder: Path) -> None:
    folder = stub_folder(tmp_path / "model")
    with running_daemon(socket_folder, models=[{"name": "stub", "source": f"path:{folder}"}]) as running:
        with Client(running.endpoint, timeout=seconds(20)) as client:
            assert client.embed("lost file 3").shape == (8,), "who had killed two would be refused"
        status = running.status()
        assert status["models"][0]["deaths"] == {"weights_changed": 3}
        assert status["requests"]["failed"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="processes are told by their names")
def test_sigbus_of_a_template_is_one_too(tmp_path: Path, socket_folder: Path) -> None:
    folder = stub_folder(tmp_path / "model")
    answers: list[np.ndarray] = []
    with running_daemon(socket_folder, models=[{"name": "stub", "source": f"path:{folder}"}]) as running:

        def ask() -> None:
            with Client(running.endpoint, timeout=seconds(20)) as client:
                answers.append(client.embed("stall 0.6"))

        thread = threading.Thread(target=ask)
        thread.start()
        for _ in range(2):  # a request that had killed two workers would be answered with an error
            wait_until(lambda: is_busy(running), 10, describe=running.output)
            (victim,) = running.named("ed-template")
            victim.send_signal(signal.SIGBUS)
            victim.wait(seconds(5))
        thread.join()
        status = running.status()
        assert len(answers) == 1, running.output()
        assert status["models"][0]["deaths"]["template_weights_changed"] == 2
        assert status["requests"]["failed"] == 0


def is_busy(running: RunningDaemon) -> bool:
    return any(worker["in_flight"] and worker["pid"] for worker in running.status()["workers"])
