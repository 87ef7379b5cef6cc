"""Every benchmark in one run, and one table: what the design demands, what was measured, reached or by how much not.

``python -m benchmarks.compare --quick`` (or ``--full``; ``make bench`` and ``make bench-full``) runs them one after the
other, each in a process of its own, and writes results/NAME.json with every value, results/NAME.md with the table, and
the pictures. ``--collect`` runs nothing and takes the newest result of each. ``--only throughput latency`` runs some.

A ratio is taken round by round, since both sides of a round were measured side by side, and quoted as the median of the
rounds with the smallest and the largest. Quote figures of a full run on a quiet machine, and never across machines.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks._harness import ROOT
from benchmarks._results import LAST, RESULTS, Demand, Form, Measurement, Result
from benchmarks.peers import ENVIRONMENTS

FIRST = ("throughput", "latency", "concurrency", "fairness", "memory", "startup", "recovery", "scaling")
"""The order of the runs and of the table; benchmarks that are not named come after."""
_OTHER_MACHINES = ("gpu",)
_LEAST_QUIET = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A demand and what was found."""

    demand: Demand
    median: float | None
    """None: not measured."""
    spread: tuple[float, float] | None
    unit: str
    text: str


def main() -> None:
    """Run, collect, judge, write. Exit code 1 if a benchmark failed, not if a number was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", dest="form", action="store_const", const=Form.QUICK, default=Form.QUICK)
    parser.add_argument("--full", dest="form", action="store_const", const=Form.FULL)
    parser.add_argument("--collect", action="store_true", help="run nothing, take the newest results")
    parser.add_argument("--only", nargs="+", metavar="BENCHMARK", help="these alone")
    parser.add_argument("--name", help="of the files in results/; default: date and form")
    arguments = parser.parse_args()
    chosen = tuple(arguments.only or benchmarks())
    start = time.monotonic()
    failed = [] if arguments.collect else [name for name in chosen if not _run(name, arguments.form)]
    results = [Result.read(LAST / f"{name}.json") for name in chosen if (LAST / f"{name}.json").exists()]
    measurements = {one.key: one for result in results for one in result.measurements}
    verdicts = [judged(demand, measurements) for name in chosen for demand in demands_of(name)]
    forms = "-".join(sorted({one.form for one in results}))
    name = arguments.name or f"{dt.datetime.now(dt.UTC):%Y-%m-%d-%H%M}-{forms}"
    write(name, results, verdicts)
    if not arguments.only:
        _draw()
    print((RESULTS / f"{name}.md").read_text(encoding="utf-8"))
    print(f"{time.monotonic() - start:.0f} s; benchmarks/results/{name}.json and .md")
    if failed:
        sys.exit(f"failed, so what stands above for them is missing or old: {', '.join(failed)}")


def benchmarks() -> list[str]:
    """All that run on this machine, by name."""
    found = {path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py")}
    found.difference_update(_OTHER_MACHINES)
    return sorted(found, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def demands_of(name: str) -> Sequence[Demand]:
    """The rows of the design that a benchmark answers."""
    module = importlib.import_module(f"benchmarks.bench_{name}")
    demands: Sequence[Demand] = getattr(module, "DEMANDS", ())
    return demands


def judged(demand: Demand, measurements: Mapping[str, Measurement]) -> Verdict:
    """Against the figures of this run."""
    figure = measurements.get(demand.figure)
    against = measurements.get(demand.against) if demand.against else None
    if figure is None or (demand.against and against is None):
        return Verdict(demand=demand, median=None, spread=None, unit="", text="not measured")
    values = figure.values if against is None else ratios(figure.values, against.values)
    median = statistics.median(values)
    return Verdict(
        demand=demand,
        median=median,
        spread=(min(values), max(values)),
        unit=figure.unit if against is None else "x",
        text=_judgement(demand, median),
    )


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Round by round; where the rounds differ, of the medians, with the extremes as the worst that they allow."""
    if len(ours) == len(theirs):
        return tuple(one / other for one, other in zip(ours, theirs, strict=True))
    middle = statistics.median(ours) / statistics.median(theirs)
    return min(ours) / max(theirs), middle, max(ours) / min(theirs)


def _judgement(demand: Demand, value: float) -> str:
    def is_met(bound: float | None) -> bool:
        return bound is not None and (value >= bound if demand.sense == "at least" else value <= bound)

    if is_met(demand.goal):
        return "goal reached"
    if demand.must is None:
        return f"goal missed by {_gap(demand.goal, value)}"
    return "reached" if is_met(demand.must) else f"**short by {_gap(demand.must, value)}**"


def _gap(bound: float | None, value: float) -> str:
    assert bound is not None, "a demand without must and goal: bug"
    missing = abs(value - bound)
    return f"{missing:.2g}" if missing < abs(bound) / 100 or bound == 0 else f"{missing / abs(bound):.0%}"


def write(name: str, results: Sequence[Result], verdicts: Sequence[Verdict]) -> None:
    """Everything as JSON, the tables as markdown."""
    RESULTS.mkdir(exist_ok=True)
    content = {"results": [asdict(one) for one in results], "verdicts": [asdict(one) for one in verdicts]}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    lines = [f"# Benchmarks, {name}", "", *_where(results), "", *_verdict_table(verdicts), "", *_peer_table(results)]
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _where(results: Sequence[Result]) -> list[str]:
    machines = {"; ".join(f"{key} {value}" for key, value in one.machine.items()) for one in results}
    versions = {f"{name} {version}" for one in results for name, version in one.versions.items()}
    commits = {one.commit for one in results}
    noisy = [f"{one.benchmark} ({one.load_before:.1f})" for one in results if one.load_before > _LEAST_QUIET]
    return [
        f"Machine: {' / '.join(sorted(machines))}.",
        f"Commit: {', '.join(sorted(commits))}. Form: {', '.join(sorted({one.form for one in results}))}.",
        f"Versions: {', '.join(sorted(versions))}.",
        *([f"**Somebody else was computing at the start** (load): {', '.join(noisy)}."] if noisy else []),
    ]


def _verdict_table(verdicts: Sequence[Verdict]) -> list[str]:
    lines = ["| demand | figure | must | goal | measured (spread) | |", "|---|---|---|---|---|---|"]
    row = ""
    for one in sorted(verdicts, key=lambda one: _first_of(one.demand.row, verdicts)):
        demand = one.demand
        shown, row = ("" if demand.row == row else demand.row), demand.row
        sign = "≥" if demand.sense == "at least" else "≤"
        bounds = [f"{sign} {bound:g}" if bound is not None else "" for bound in (demand.must, demand.goal)]
        against = f" / `{demand.against.rpartition('/')[2]}`" if demand.against else ""
        lines.append(f"| {shown} | `{demand.figure}`{against} | {' | '.join(bounds)} | {_shown(one)} | {one.text} |")
    return lines


def _first_of(row: str, verdicts: Sequence[Verdict]) -> int:
    """Rows that several benchmarks answer stand together."""
    return next(place for place, one in enumerate(verdicts) if one.demand.row == row)


def _shown(verdict: Verdict) -> str:
    if verdict.median is None or verdict.spread is None:
        return ""
    low, high = verdict.spread
    several = f" ({_short(low)} to {_short(high)})" if low != high else ""
    return f"{_short(verdict.median)} {verdict.unit.replace('cosine', '')}".strip() + several


def _short(value: float) -> str:
    return f"{value:.5f}" if 0.9 < value < 1 else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _peer_table(results: Sequence[Result]) -> list[str]:
    """Speed and accuracy of everybody, side by side."""
    found = {one.key: one.median for result in results for one in result.measurements}
    names = [key.rpartition("/")[2] for key in found if key.startswith("throughput/prose/")]
    if not names:
        return []
    columns = (
        "throughput/prose",
        "throughput/queries",
        "latency/p50",
        "throughput/cosine-min",
        "throughput/cosine-mean",
    )
    lines = [
        "| | prose, tok/s | by the first | queries/s | one text, ms | min cosine | mean cosine |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        rate, short, one, low, mean = (found.get(f"{column}/{name}") for column in columns)
        by = rate / found[f"throughput/prose/{names[0]}"] if rate else None
        cells = (rate, by, short, one, low, mean)
        lines.append(f"| {name} | {' | '.join('' if cell is None else _short(cell) for cell in cells)} |")
    return lines


def _run(name: str, form: Form) -> bool:
    (LAST / f"{name}.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", f"benchmarks.bench_{name}", f"--{form.value}"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def _draw() -> None:
    python = ENVIRONMENTS / "pictures" / "bin" / "python"
    subprocess.run([python, "-m", "benchmarks.pictures"], cwd=ROOT, check=False)


if __name__ == "__main__":
    main()
