"""The governor's promise with real processes: what cannot fit is refused with numbers, or takes turns."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from embeddaemon.protocol.messages import ErrorAnswer, Vectors
from tests.support.daemon import running_daemon, stub_folder

MIB = 1024 * 1024

ONE = 460 * MIB
ROOM_FOR_ONE = 920 * MIB
"""Less the reserve of a tenth: for a fork server that starts and one such model, and not for two of them later."""


def model(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "source": f"path:{stub_folder(folder / name)}", **options}


def number(error: ErrorAnswer, key: str) -> int:
    value = error.details[key]
    assert isinstance(value, int)
    return value


def test_model_that_can_never_fit_is_refused_at_once_with_the_numbers(socket_folder: Path, tmp_path: Path) -> None:
    models = [model(tmp_path, "small"), model(tmp_path, "large", estimate=2000 * MIB)]
    with running_daemon(socket_folder, models=models, memory_budget=1024 * MIB) as running, running.client() as client:
        error = client.embed_error(["hello"], model="large", deadline_ms=600_000)
        assert error.code == "no_headroom"
        assert number(error, "needed_bytes") > 2000 * MIB
        assert 0 < number(error, "available_bytes") < 1024 * MIB
        assert error.details["limit_bytes"] == 1024 * MIB
        assert error.details["limit_source"]
        refused = client.load("large")
        assert isinstance(refused, ErrorAnswer)
        assert refused.code == "no_headroom"
        assert client.embed(["hello"], model="small").shape == (1, 8)


def test_two_models_that_fit_only_one_at_a_time_alternate_within_the_budget(
    socket_folder: Path, tmp_path: Path
) -> None:
    models = [model(tmp_path, name, estimate=ONE) for name in ("one", "two")]
    settings: dict[str, Any] = {"memory_budget": ROOM_FOR_ONE, "min_residence_seconds": 0.05}
    with running_daemon(socket_folder, models=models, **settings) as running, running.client() as client:
        for name in itertools.islice(itertools.cycle(("one", "two")), 6):
            assert client.embed([f"hello {name}"], model=name).shape == (1, 8)
            memory = client.status()["memory"]
            assert memory["leased_bytes"] + memory["reserve_bytes"] <= memory["budget_bytes"]
            templates = [lease["holder"] for lease in memory["leases"] if lease["holder"].startswith("template")]
            assert len(templates) == 1


def test_two_busy_models_that_fit_only_one_at_a_time_are_both_served(socket_folder: Path, tmp_path: Path) -> None:
    models = [model(tmp_path, name, estimate=ONE) for name in ("one", "two")]
    settings: dict[str, Any] = {"memory_budget": ROOM_FOR_ONE, "min_residence_seconds": 0.05}
    with (
        running_daemon(socket_folder, models=models, **settings) as running,
        running.client(timeout_seconds=30) as busy,
        running.client(timeout_seconds=30) as other,
    ):
        answered = 0
        busy.embed(["hello"], model="one")
        busy.ask(["stall 0.05"], model="one")
        other.ask(["hello"], model="two")
        while not other.has_answer(0.0):
            # Never idle: always one more before the last is answered.
            busy.ask(["stall 0.05"], model="one")
            assert isinstance(busy.receive()[0], Vectors)
            answered += 1
        assert isinstance(other.receive()[0], Vectors)
        assert isinstance(busy.receive()[0], Vectors)
        assert answered > 10


def test_pinned_model_is_not_evicted_and_the_other_says_what_it_waited_for(socket_folder: Path, tmp_path: Path) -> None:
    models = [model(tmp_path, "pinned", estimate=ONE, pinned=True), model(tmp_path, "two", estimate=ONE)]
    settings: dict[str, Any] = {"memory_budget": ROOM_FOR_ONE, "min_residence_seconds": 0.05}
    with running_daemon(socket_folder, models=models, **settings) as running, running.client() as client:
        client.embed(["hello"], model="pinned")
        error = client.embed_error(["hello"], model="two", deadline_ms=700)
        assert error.code == "expired"
        assert error.details["waited_for"] == "memory"
        assert number(error, "needed_bytes") >= ONE
