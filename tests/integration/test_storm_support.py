"""What the governor's storm stands on: an observer that counts a page once, an appetite, promises that can break."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks._storm import Report, bound_of_wait
from benchmarks._storm_client import Tally, tally_from
from benchmarks._storm_engine import GreedyModel, program
from benchmarks._storm_models import MIB, Needs, budget_for, likeness, texts
from benchmarks._storm_observer import Observation, Sample, settled
from benchmarks._storm_watch import Spans
from embeddaemon.workers.program import torch_program
from tests.support.stub_engine import StubModel, stub_order

_SHARES = """
import os, sys
kept = bytearray(b"x") * (96 << 20)
for _ in range(2):
    if not os.fork():
        break
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.read()
"""


@pytest.fixture
def family() -> Iterator[int]:
    """The pid of a process with 96 MiB that it shares with two children."""
    process = subprocess.Popen([sys.executable, "-c", _SHARES], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == [b"ready\n"] * 3
    yield process.pid
    process.communicate()


def test_observer_counts_memory_that_processes_share_once(family: int) -> None:
    sample = settled(family)
    assert len(sample.held_by) == 3
    assert 96 * MIB <= sample.held_bytes < 130 * MIB
    assert sample.held_bytes <= sample.share_bytes


def test_greedy_model_computes_what_it_is_told_and_keeps_what_it_ate() -> None:
    model, plain = GreedyModel(StubModel(stub_order())), StubModel(stub_order())
    before = settled_here()
    ids = [encoded.ids for encoded in model.tokenize(["eat 64 MiB", "hello"], prompt="", max_tokens=32)]
    row = np.array([*ids[1], *ids[0]], dtype=np.int32)
    lengths = np.array([len(ids[1]), len(ids[0])], dtype=np.int32)
    vectors = model.forward(row, lengths, None)
    wanted = plain.forward(np.array(ids[1], dtype=np.int32), lengths[:1], None)
    assert np.array_equal(vectors[0], wanted[0])
    assert settled_here() - before > 60 * MIB


def settled_here() -> int:
    with open("/proc/self/statm", encoding="utf-8") as file:  # noqa: PTH123 - a line of the kernel's
        return int(file.read().split()[1]) * 4096


def test_greedy_program_differs_from_the_real_one_in_loading_only() -> None:
    assert program().preload == torch_program().preload
    assert program().load != torch_program().load


def report(**differences: object) -> Report:
    """Of a storm in which all went well, but for these."""
    values: dict[str, object] = {
        "budget_bytes": 1000,
        "bound_seconds": 20.0,
        "patience_seconds": 30.0,
        "seconds": 1.0,
        "likeness": 0.9,
        "tally": Tally(endings=Counter(answered=1)),
        "observation": Observation(1000),
        "spans": {"mini": Spans(unserved=[19.0])},
        "exit_code": 0,
    }
    return Report(**{**values, **differences})  # type: ignore[arg-type]  # fields as the test gives them


def test_storm_in_which_all_went_well_breaks_no_promise() -> None:
    assert report().broken() == []


def too_much() -> Observation:
    observation = Observation(1000)
    observation.add(Sample(1001, 2000, {"ed-worker 1": 1001}), at=1.0)
    return observation


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ({"observation": too_much()}, "memory:"),
        ({"tally": Tally(endings=Counter(answered=1), wrong=["a vector"])}, "wrong:"),
        ({"tally": Tally(endings=Counter(answered=1), late=["one"])}, "late:"),
        ({"tally": Tally(endings=Counter(answered=1), without_numbers=["one"])}, "without numbers"),
        ({"tally": Tally(endings=Counter(answered=1), starved=["one"])}, "starved:"),
        ({"tally": Tally()}, "no request was answered"),
        ({"spans": {"mini": Spans(unserved=[1.0, 21.0])}}, "wait:"),
        ({"left_over": ["worker:mini/3"]}, "lease left over"),
        ({"hung": ["clients 1"]}, "hung:"),
        ({"status": {"open": 1, "queued": 0}}, "requests are open"),
        ({"exit_code": 1}, "ended with 1"),
    ],
)
def test_storm_names_the_promise_that_was_broken(differences: dict[str, object], word: str) -> None:
    broken = report(**differences).broken()
    assert len(broken) == 1
    assert word in broken[0]


def test_what_clients_counted_survives_the_way_to_the_benchmark() -> None:
    tally = Tally(endings=Counter(answered=2), texts=Counter(mini=3), waits={"mini": [0.5]}, wrong=["one"])
    assert tally_from(tally.as_text()) == tally


def test_bound_of_a_wait_has_a_turn_of_every_model_and_each_start_of_the_fork_server() -> None:
    assert bound_of_wait([1.0], []) < bound_of_wait([1.0, 1.0], []) < bound_of_wait([1.0, 3.0], [])
    assert bound_of_wait([1.0], [4.0, 5.0]) == bound_of_wait([1.0], []) + 9.0


def test_budget_holds_the_largest_model_while_it_loads_and_two_fifths_of_all_at_rest() -> None:
    small, large = Needs(150 * MIB, 100 * MIB, 1.0), Needs(900 * MIB, 300 * MIB, 1.0)
    leasable = budget_for([small, large], 350 * MIB) * 9 // 10
    assert 1250 * MIB <= leasable < 1290 * MIB
    assert 550 * MIB <= budget_for([small] * 5, 350 * MIB) * 9 // 10 < 590 * MIB


def test_texts_of_a_storm_differ_and_likeness_is_that_of_the_nearest_two() -> None:
    assert len(set(texts(200))) == 200
    rows = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    assert likeness(rows) == pytest.approx(0.8)
