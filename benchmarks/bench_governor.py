"""Does the memory governor keep its promises while everything goes wrong at once?

Five models (the bundled one under two names, and generated checkpoints of 113 to 682 MiB) share a budget for about two
of them. Twenty clients ask for single texts, batches and bulk, with deadlines; meanwhile workers, templates and the
fork server are killed, models are loaded and unloaded, and workers are told to eat memory and keep it, or to eat
without bound. What is promised, and checked:

- memory: what the daemon and everything below it hold and the kernel cannot take back never passes the budget, sampled
  every 100 ms by a process that knows nothing of the daemon (_storm_observer.py says what is counted);
- every request is answered with the right vector (compared with what a daemon at rest gave), or ends with an error of
  the tree that says why; whoever got no memory is told the numbers; nothing ends later than two seconds past its
  deadline;
- no model's requests wait longer for somebody to serve them than its bound: the turn, drain and load of every model
  that it does not fit with, and what kills add (_storm.py has the formula);
- when it is over, no lease is left but the fork server's, and the daemon stops cleanly.

Exit code 1 when one is broken. What would make it lie: a peak between two samples (the engine eats a gigabyte in about
half a second, so a sample in a hundred milliseconds may be 200 MiB short); memory of a process that is being torn down,
which belongs to nobody; a machine so slow that the bound, which is made from load times measured at rest, is too tight.
Choices are seeded, but not what threads and processes make of them. ``--quick`` is half a minute, ``--full`` five.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks._harness import VERSIONS, commit, machine, percentile
from benchmarks._results import LAST, Demand, Form, Measurement, Result
from benchmarks._storm import Prepared, Report, Weather, prepare, weather
from benchmarks._storm_daemon import storm_daemon
from benchmarks._storm_models import FIVE, MIB
from benchmarks._storm_trouble import Rates

DEMANDS = (
    Demand(
        row="memory governor in a storm: promises broken",
        figure="governor/promises-broken/ours",
        must=0,
        sense="at most",
    ),
    Demand(
        row="memory held in a storm, against the budget",
        figure="governor/peak-held/ours",
        against="governor/budget/ours",
        must=1,
        sense="at most",
    ),
)

_MINUTES = {Form.QUICK: 0.5, Form.FULL: 5.0}


def main() -> int:
    """Parse the command line, weather the storm, print, write the result; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_governor")
    parser.add_argument("--quick", dest="form", action="store_const", const=Form.QUICK, default=Form.FULL)
    parser.add_argument("--full", dest="form", action="store_const", const=Form.FULL)
    parser.add_argument("--minutes", type=float, help="of traffic; default: 5, quick 0.5")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calm", action="store_true", help="traffic alone: nobody is killed, nobody eats")
    parser.add_argument("--without-unbounded", action="store_true", help="nobody eats without bound")
    parser.add_argument("--keep-log", type=Path, metavar="FILE", help="where the daemon's log goes")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # by way of every finally: nothing stays behind
    load, start = os.getloadavg()[0], time.monotonic()
    minutes = arguments.minutes or _MINUTES[arguments.form]
    rates = _rates(arguments, minutes * 60)
    how = Weather(seconds=minutes * 60, clients=arguments.clients, rates=rates, seed=arguments.seed)
    with tempfile.TemporaryDirectory(prefix="ed-storm-", dir="/tmp") as folder:
        report = run(Path(folder), how, arguments.keep_log)
    measurements = tuple(measurements_of(report))
    for measurement in measurements:
        print(f"  {measurement}", flush=True)
    tell(report)
    Result(
        benchmark="governor",
        form=arguments.form.value,
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        commit=commit(),
        machine=machine(),
        versions=VERSIONS,
        measurements=measurements,
        load_before=load,
        seconds=round(time.monotonic() - start, 1),
    ).write(LAST / "governor.json")
    return 1 if report.broken() else 0


def _rates(arguments: argparse.Namespace, seconds: float) -> Rates:
    """In a short storm whatever is rare comes sooner, so that each comes at least once."""
    if arguments.calm:
        return Rates(kill=None, kill_fork_server=None, reload=None, bloat=None, eat_without_bound=None)
    usual = Rates()
    eat = None if arguments.without_unbounded else min(usual.eat_without_bound or 0, seconds / 3)
    return dataclasses.replace(
        usual, eat_without_bound=eat, kill_fork_server=min(usual.kill_fork_server or 0, seconds / 2)
    )


def run(folder: Path, how: Weather, keep_log: Path | None = None) -> Report:
    """References from a daemon at rest, then the storm in a second one."""
    print(f"== governor: {machine()['cpu']}, {machine()['cores']} cores; preparing", flush=True)
    prepared = prepare(folder, FIVE)
    budget_bytes = prepared.budget_bytes
    _tell_of(prepared)
    place = folder / "storm"
    place.mkdir()
    settings = {"models": prepared.settings, "memory_budget": budget_bytes, "state_folder": str(place)}
    try:
        with storm_daemon(place, settings) as daemon:
            report = weather(daemon, prepared, how, budget_bytes)
        return dataclasses.replace(report, exit_code=daemon.exit_code)
    finally:
        if keep_log is not None and (place / "log").exists():
            keep_log.write_bytes((place / "log").read_bytes())


def measurements_of(report: Report) -> Iterator[Measurement]:
    """The report as figures."""

    def figure(what: str, unit: str, value: float, note: str = "", who: str = "ours") -> Measurement:
        return Measurement(name=f"governor/{what}/{who}", unit=unit, values=(value,), note=note)

    seen, tally = report.observation, report.tally
    yield figure("promises-broken", "promises", len(report.broken()))
    yield figure("budget", "MiB", report.budget_bytes / MIB)
    yield figure("peak-held", "MiB", seen.peak_held_bytes / MIB, f"{seen.samples_over} of {seen.samples} samples above")
    yield figure("mean-held", "MiB", seen.mean_held_bytes / MIB)
    yield figure("peak-pss", "MiB", seen.peak_share_bytes / MIB, "with mapped files")
    gaps = f"longest gap {seen.longest_gap_seconds:.2f} s, {seen.unsettled} not settled"
    yield figure("samples", "a second", seen.samples / max(1.0, report.seconds), gaps)
    yield figure("answered", "requests", tally.endings["answered"], f"least cosine {tally.least_cosine:.6f}")
    yield figure("throughput", "texts/s", tally.texts.total() / report.seconds, _listed(tally.texts))
    yield figure("wait-bound", "s", report.bound_seconds)
    for model, spans in report.spans.items():
        loads = f"{len(spans.loading)} loads seen, longest {max(spans.loading, default=0):.1f} s"
        yield figure("longest-wait", "s", max(spans.unserved, default=0.0), loads, model)
        waits = sorted(tally.waits.get(model, [0.0])) * 2
        note = f"p99 {percentile(waits, 99):.2f}, max {waits[-1]:.2f}; {tally.unanswered[model]} not answered"
        yield figure("answer-p50", "s", percentile(waits, 50), note, model)


def tell(report: Report) -> None:
    """What no figure says."""
    seen = report.observation
    print(
        f"endings      {_listed(report.tally.endings)}; expired while waiting for: {_listed(report.tally.expired_for)}"
    )
    print(f"trouble      {_listed(report.trouble.done)}; its requests: {_listed(report.trouble.endings)}")
    print(f"at the peak  {_listed({name: count // MIB for name, count in seen.held_by_at_peak.items()})} MiB")
    if seen.over_at:
        moments = ", ".join(
            dt.datetime.fromtimestamp(at, dt.UTC).strftime("%H:%M:%S.%f")[:-4] for at in seen.over_at[:8]
        )
        print(f"over budget  {seen.samples_over} samples, the first at {moments}")
    print(
        f"daemon       {_listed(report.status.get('counts', {}))}; status within {report.slowest_status_seconds:.2f} s"
    )
    for model in report.status.get("models", ()):
        print(f"  {model['name']:<10} loads {model['loads']}, failures {model['failures']}, deaths {model['deaths']}")
    print(f"its log      {_listed(report.events)}")
    broken = report.broken()
    for text in broken:
        print(f"BROKEN       {text}")
    print(f"{len(broken)} promises broken" if broken else "every promise kept", flush=True)


def _tell_of(prepared: Prepared) -> None:
    for name, needs in prepared.needs.items():
        numbers = f"{needs.peak_bytes / MIB:.0f} MiB while loading, {needs.rest_bytes / MIB:.0f} at rest"
        print(f"  {name:<10} {numbers}, loads in {needs.load_seconds:.1f} s")
    server = f"{prepared.fork_server_bytes / MIB:.0f} MiB"
    print(f"  fork server {server}, with it a first load {prepared.fork_server_seconds:.1f} s")
    print(f"  budget {prepared.budget_bytes / MIB:.0f} MiB, bound of a wait {prepared.bound_seconds:.0f} s", flush=True)
    print(f"  nearest vectors of different texts: cosine {prepared.likeness:.4f}", flush=True)


def _listed(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count}" for name, count in ordered) or "nothing"


if __name__ == "__main__":
    sys.exit(main())
