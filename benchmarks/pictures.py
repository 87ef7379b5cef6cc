"""Draws the newest results as docs/images/*.svg: throughput, latency and memory, each against what it depends on.

Runs in an environment with the ``bench`` group (matplotlib) and needs nothing else: ``make bench`` does it at its end.
Lines are medians, the shade goes from the smallest to the largest repetition. A picture whose benchmark has not run is
left as it is, and said so.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks._results import LAST, Measurement, Result

IMAGES = Path(__file__).parents[1] / "docs" / "images"
NAMES = {
    "ours": "embeddaemon, through the socket",
    "st-fp32": "sentence-transformers, fp32",
    "st-openvino-bf16": "sentence-transformers, OpenVINO bf16",
    "openvino-bf16": "OpenVINO bf16, in process, a stream per core",
    "infinity-bf16": "infinity over HTTP, bf16",
}
COLOURS = ("#1b6ca8", "#7a7a7a", "#e08e2b", "#3c8d53", "#b04a5a", "#7d5ba6")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One file: the series ``prefix/WHO`` of a benchmark's result."""

    file: str
    benchmark: str
    prefix: str
    title: str
    across: str
    up: str
    is_doubling: bool = True
    """The places on the axis go by factors of two."""
    is_logarithmic: bool = False


PICTURES = (
    Picture(
        file="throughput-by-length",
        benchmark="throughput",
        prefix="throughput/sweep",
        title="Bulk throughput by length of the texts",
        across="tokens in a text",
        up="tokens per second",
    ),
    Picture(
        file="latency-by-concurrency",
        benchmark="concurrency",
        prefix="concurrency/p50",
        title="Wait for one short text by number of clients, p50",
        across="clients asking at the same time",
        up="milliseconds",
        is_logarithmic=True,
    ),
    Picture(
        file="memory-by-workers",
        benchmark="memory",
        prefix="memory/total-pss",
        title="Memory of everything together by number of workers",
        across="workers of one model, or programs with a model of their own",
        up="MiB, proportional share",
        is_doubling=False,
    ),
)


def main() -> None:
    """Every picture that there are results for."""
    mpl.use("svg")
    # Text stays text, and a picture of the same figures is the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "embeddaemon", "font.size": 10})
    for picture in PICTURES:
        file = LAST / f"{picture.benchmark}.json"
        if not file.exists():
            print(f"no picture of {picture.file}: bench_{picture.benchmark} has not run", file=sys.stderr)
            continue
        draw(picture, Result.read(file))


def draw(picture: Picture, result: Result) -> None:
    """One picture from one result."""
    series: dict[str, list[Measurement]] = defaultdict(list)
    for measurement in result.measurements:
        prefix, _, who = measurement.name.rpartition("/")
        if prefix == picture.prefix and measurement.at is not None:
            series[who].append(measurement)
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for colour, (who, points) in zip(COLOURS, sorted(series.items(), key=_ours_first), strict=False):
        _draw_line(axes, who, sorted(points, key=lambda one: one.at or 0), colour)
    _dress(axes, picture)
    machine = f"{result.machine['cpu']}, {result.machine['cores']} cores, {result.date[:10]}, {result.form} form"
    figure.text(0.995, 0.005, machine, fontsize=6.5, color="#666666", ha="right")
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / f"{picture.file}.svg", metadata={"Date": None})
    plt.close(figure)


def _ours_first(entry: tuple[str, Sequence[Measurement]]) -> tuple[bool, str]:
    return entry[0] != "ours", entry[0]


def _draw_line(axes: Axes, who: str, points: Sequence[Measurement], colour: str) -> None:
    places = [point.at or 0 for point in points]
    thick = 2.4 if who == "ours" else 1.4
    label = NAMES.get(who, who)
    axes.plot(places, [one.median for one in points], marker="o", markersize=4, lw=thick, color=colour, label=label)
    lows, highs = zip(*(point.spread for point in points), strict=True)
    axes.fill_between(places, lows, highs, color=colour, alpha=0.15, lw=0)


def _dress(axes: Axes, picture: Picture) -> None:
    axes.set_title(picture.title, fontsize=11, loc="left")
    axes.set_xlabel(picture.across)
    axes.set_ylabel(picture.up)
    places = sorted({float(x) for line in axes.get_lines() for x in line.get_xdata()})
    if picture.is_doubling:
        axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{place:g}" for place in places])
    if picture.is_logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(visible=True, color="#dddddd", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5)


if __name__ == "__main__":
    main()
