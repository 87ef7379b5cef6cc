"""What the processes of a daemon hold together, seen from outside: ``python -m benchmarks._storm_observer PID BUDGET``.

*Held* is what the kernel cannot take back by itself: anonymous memory, shared memory and swap, each page counted once
however many processes share it (Pss_Anon, Pss_Shmem and SwapPss of smaps_rollup, of the process and all below it).
Files that are mapped or cached are not in it.

Samples are taken every 100 ms until stdin ends; then one line of JSON goes to stdout. Processes come and go while they
are read one after the other, and then a page may be counted twice or not at all; so a sample counts only if the same
processes were there before and after it, and is taken again at once otherwise.
"""

from __future__ import annotations

import json
import select
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks._pages import tree_of

PERIOD_SECONDS = 0.1
_TRIES = 20
_HELD = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")


@dataclass(frozen=True, slots=True)
class Sample:
    """Of a tree of processes at one moment, in bytes."""

    held_bytes: int
    share_bytes: int
    """Total PSS: with mapped files."""
    held_by: dict[str, int]
    """``held_bytes`` by process, as ``ed-worker 4711``."""


@dataclass(slots=True)
class Observation:
    """All samples of a run."""

    budget_bytes: int
    peak_held_bytes: int = 0
    peak_share_bytes: int = 0
    held_by_at_peak: dict[str, int] = field(default_factory=dict)
    peak_at: float = 0.0
    """Seconds since the epoch."""
    samples: int = 0
    samples_over: int = 0
    unsettled: int = 0
    """Moments at which processes came and went at every try."""
    longest_gap_seconds: float = 0.0
    over_at: list[float] = field(default_factory=list)
    """When the first samples above the budget were taken, seconds since the epoch; at most a hundred."""
    mean_held_bytes: float = 0.0

    def add(self, sample: Sample, at: float) -> None:
        """Count one sample, taken ``at`` seconds since the epoch."""
        self.samples += 1
        self.mean_held_bytes += (sample.held_bytes - self.mean_held_bytes) / self.samples
        self.peak_share_bytes = max(self.peak_share_bytes, sample.share_bytes)
        if sample.held_bytes > self.peak_held_bytes:
            self.peak_held_bytes, self.held_by_at_peak, self.peak_at = sample.held_bytes, sample.held_by, at
        if sample.held_bytes > self.budget_bytes:
            self.samples_over += 1
            self.over_at = [*self.over_at, at][:100]


def look(pid: int) -> Sample | None:
    """The tree of ``pid`` now; None when it changed while it was read."""
    try:
        before = sorted(tree_of(pid))
        held_by = Counter[str]()
        share = 0
        for one in before:
            counts = _rollup(one)
            held_by[f"{_name(one)} {one}"] = sum(counts[key] for key in _HELD)
            share += counts["Pss:"]
        after = sorted(tree_of(pid))
    except (OSError, ValueError):  # one that has just ended has no file, or an empty one
        return None
    return Sample(held_by.total(), share, dict(held_by)) if after == before else None


def settled(pid: int) -> Sample:
    """A sample of a tree that is left alone for a moment. Raises RuntimeError where processes never stop coming."""
    for _ in range(1000):
        if (sample := look(pid)) is not None:
            return sample
        time.sleep(0.01)
    raise RuntimeError(f"the processes below {pid} change all the time")


def _rollup(pid: int) -> Counter[str]:
    counts = Counter[str]()
    _, *lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines() or [""]
    if not lines:
        raise ValueError(f"{pid} has no memory any more")
    for line in lines:
        key, kilobytes = line.split()[:2]
        counts[key] += int(kilobytes) * 1024
    return counts


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()


def _observe(pid: int, budget_bytes: int) -> Observation:
    observation = Observation(budget_bytes)
    last = due = time.monotonic()
    while True:
        for _ in range(_TRIES):
            if (sample := look(pid)) is not None:
                now = time.monotonic()
                observation.add(sample, time.time())
                observation.longest_gap_seconds = max(observation.longest_gap_seconds, now - last)
                last = now
                break
        else:
            observation.unsettled += 1
        due = max(due + PERIOD_SECONDS, time.monotonic())
        if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            return observation


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_observe(int(sys.argv[1]), int(sys.argv[2])))))
