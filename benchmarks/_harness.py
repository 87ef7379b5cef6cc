"""What the benchmarks share: a private daemon, figures with their spread, and the files they end up in.

A benchmark is a module ``bench_<question>.py`` with

- a docstring that says what it measures and what would make it lie;
- ``measure(form: Form) -> Iterable[Measurement]``, which yields each figure as soon as it is there;
- ``DEMANDS: tuple[Demand, ...]``, the rows of the design that its figures answer (empty if none);
- ``if __name__ == "__main__": main(__spec__.name, measure)``, which gives it ``--quick`` (the default) and ``--full``.

Figures are named ``question/what/who``, as ``throughput/prose/st-fp32``; ``who`` is ``ours``, a peer, or anything that
tells the figure from its neighbours. A figure of a series carries its place on the axis as ``at`` and is then called
``concurrency/p50/ours@64``. Repetitions of things that are compared are taken in turn (`in_turn`), so that value i of
one and value i of the other were measured side by side; `compare.py` then takes the ratio of each pair.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import importlib.metadata
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks._results import LAST, Demand, Form, Measurement, Result
from embeddaemon import Client, DaemonUnreachable

__all__ = ["Daemon", "Demand", "Form", "Measurement", "Result", "daemon", "in_turn", "main", "percentile"]

TEXT = "Which planet is known as the Red Planet?"
ROOT = Path(__file__).parents[1]
_PRODUCT = ("embeddaemon", "governor", "workers", "pyproject.toml")
_OURS = ("torch", "transformers", "tokenizers", "numpy", "pyzmq")

VERSIONS = {name: importlib.metadata.version(name) for name in _OURS}
"""Of what is measured, for the result; peers add theirs when they are started."""


def main(module: str, measure: Callable[[Form], Iterable[Measurement]]) -> None:
    """Parse the command line, measure, print every figure at once, write the result to `LAST`."""
    name = module.rpartition(".bench_")[2]
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--quick", dest="form", action="store_const", const=Form.QUICK, default=Form.QUICK)
    parser.add_argument("--full", dest="form", action="store_const", const=Form.FULL)
    form: Form = parser.parse_args().form
    load, start = os.getloadavg()[0], time.monotonic()
    print(f"== {name}, {form.value}: {machine()['cpu']}, {machine()['cores']} cores", flush=True)
    measurements = []
    for measurement in measure(form):
        print(f"  {measurement}", flush=True)
        measurements.append(measurement)
    result = Result(
        benchmark=name,
        form=form.value,
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        commit=commit(),
        machine=machine(),
        versions=VERSIONS,
        measurements=tuple(measurements),
        load_before=load,
        seconds=round(time.monotonic() - start, 1),
    )
    result.write(LAST / f"{name}.json")


def in_turn(
    contestants: Mapping[str, Callable[[], float]], rounds: int, before: Callable[[str], object] = lambda _: None
) -> dict[str, tuple[float, ...]]:
    """Each contestant's value in each round, A B C A B C, so that a slow minute of the machine meets them all alike.

    ``before`` is called with the name just before every turn and is not measured: wake, warm up.
    """
    values: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measured in contestants.items():
            before(name)
            values[name].append(measured())
    return {name: tuple(several) for name, several in values.items()}


def percentile(values: Sequence[float], percent: int) -> float:
    """Of at least two values; 50 is the median."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


class Daemon:
    """A daemon of its own with the bundled model; ``started_at``: when its process was started, monotonic seconds."""

    def __init__(self, folder: Path, config: str, arguments: Sequence[str]) -> None:
        self.endpoint = f"ipc://{folder}/s"
        file = folder / "embeddaemon.toml"
        file.write_text(config, encoding="utf-8")
        command = [sys.executable, "-m", "embeddaemon", "serve", "--endpoint", self.endpoint, "--config", str(file)]
        command.append("--exit-with-parent")
        self.log = folder / "log"
        self._stderr = self.log.open("wb")
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.DEVNULL, stderr=self._stderr, cwd=ROOT, env=_environment()
        )

    def wait_until_it_answers(self) -> None:
        """Until HELLO is answered. Raises RuntimeError with the log if the daemon has ended instead."""
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon has ended:\n{self.log.read_text(encoding='utf-8')}")
            with Client(self.endpoint, timeout=10) as client, contextlib.suppress(DaemonUnreachable):
                client.hello()
                return

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self._stderr.close()


@contextlib.contextmanager
def daemon(*arguments: str, config: str = "") -> Iterator[Daemon]:
    """Started with these flags of ``serve`` and this TOML, not waited for; stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="ed-bench-", dir="/tmp") as folder:
        running = Daemon(Path(folder), config, arguments)
        try:
            yield running
        finally:
            running.stop()


def _environment() -> dict[str, str]:
    """Ours without the variables that configure the daemon: what is measured is what the benchmark says."""
    return {name: value for name, value in os.environ.items() if not name.startswith("EMBEDDAEMON_")}


def machine() -> dict[str, str]:
    """Where the figures come from."""
    found = {"cpu": platform.processor() or platform.machine(), "cores": str(os.cpu_count())}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                found["cpu"] = value.strip()
            elif key.strip() == "flags":
                wanted = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"}
                found["features"] = " ".join(sorted(wanted.intersection(value.split())))
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        **found,
        "memory": f"{pages / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit that was measured, with a mark where the product's files differ from it."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        found = _git("rev-parse", "--short=12", "HEAD")
        return f"{found} and changes" if _git("status", "--porcelain", "--", *_PRODUCT) else found
    return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
