"""How the benchmarks' table judges figures: ratios of rounds, what counts as reached, what was not measured."""

from pathlib import Path

import pytest

from benchmarks._results import Demand, Measurement, Result
from benchmarks.compare import judged, ratios


def measurement(name: str, *values: float) -> Measurement:
    return Measurement(name=name, unit="tok/s", values=values)


def verdict(demand: Demand, *measurements: Measurement) -> str:
    return judged(demand, {one.key: one for one in measurements}).text


def test_ratio_is_taken_round_by_round() -> None:
    assert ratios((10, 40), (5, 10)) == (2, 4)


def test_ratio_of_different_rounds_is_of_the_medians_with_the_worst_spread() -> None:
    assert ratios((10, 20, 30), (4, 6)) == (10 / 6, 4, 30 / 4)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9, "**short by 10%**"), (0.995, "**short by 0.005**"), (1.0, "reached"), (1.2, "goal reached")],
)
def test_figure_is_held_against_must_and_goal(value: float, text: str) -> None:
    demand = Demand(row="bulk", figure="a/ours", against="a/peer", must=1, goal=1.2)
    assert verdict(demand, measurement("a/ours", value), measurement("a/peer", 1)) == text


@pytest.mark.parametrize(("value", "text"), [(0.4, "reached"), (0.75, "**short by 50%**")])
def test_figure_may_have_to_be_small(value: float, text: str) -> None:
    assert verdict(Demand(row="x", figure="a", must=0.5, sense="at most"), measurement("a", value)) == text


def test_one_where_none_is_allowed_is_short_by_one() -> None:
    demand = Demand(row="refused", figure="a", must=0, sense="at most")
    assert verdict(demand, measurement("a", 1)) == "**short by 1**"


def test_goal_without_must_is_reached_or_missed() -> None:
    demand = Demand(row="int8", figure="a", must=None, goal=2)
    assert verdict(demand, measurement("a", 2)) == "goal reached"
    assert verdict(demand, measurement("a", 1)) == "goal missed by 50%"


@pytest.mark.parametrize("present", ["a/ours", "a/peer"])
def test_ratio_without_both_sides_is_not_measured(present: str) -> None:
    demand = Demand(row="bulk", figure="a/ours", against="a/peer", must=1)
    assert verdict(demand, measurement(present, 1)) == "not measured"


def test_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    result = Result(
        benchmark="x",
        form="quick",
        date="2026-01-01T00:00:00+00:00",
        commit="0123456789ab",
        machine={"cpu": "one"},
        versions={"torch": "2"},
        measurements=(Measurement(name="x/a/ours", unit="ms", values=(1.0, 2.0), at=64, note="noted"),),
        load_before=0.25,
    )
    result.write(tmp_path / "folder" / "x.json")
    assert Result.read(tmp_path / "folder" / "x.json") == result
