"""How long does somebody wait who asks for one short text, or for 8 or 32 of them, with nobody else asking?

One text: 4 to 12 words, each a different one, one after the other on a warm model; p50, p90, p99 of every round. Ours
from ``embed()`` to the array, through the socket; peers in process, from the string to the array, infinity over HTTP.
``daemon-adds`` is what ours takes beyond the forward pass that the worker has timed: client, socket, supervisor,
tokenizer, pooling and the way back.

It lies where somebody else computes at the same time, p99 first; with one text asked again and again, whose shape is
then the only one that is warm; where the processor saves power between requests, since here one follows the other
at once; and where a peer's process was just woken, so every turn is warmed up again before it counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from benchmarks._contestants import Contestant, Ours, awake, field
from benchmarks._harness import Demand, Form, Measurement, main, percentile
from benchmarks.corpus import prose, queries

PEERS = ("st-fp32", "st-bf16", "st-openvino-bf16", "onnx-fp32", "openvino-bf16", "openvino-int8", "infinity-bf16")
PERCENTILES = (50, 90, 99)
SEVERAL = (8, 32)
_WARM_UP = 25
_ONE = "one short text, warm, p50 through the socket"
_SEEDS = "seeds' targets"

DEMANDS = (
    Demand(row=_ONE, figure="latency/p50/ours", against="latency/p50/st-fp32", must=0.35, sense="at most"),
    Demand(row=_ONE, figure="latency/daemon-adds/ours", must=0.5, sense="at most"),
    Demand(row=_ONE, figure="latency/beyond-openvino/ours", must=None, goal=0.3, sense="at most"),
    Demand(row=_SEEDS, figure="latency/p50/ours", must=20, sense="at most"),
    Demand(row=_SEEDS, figure="latency/queries/ours@8", must=40, sense="at most"),
    Demand(row=_SEEDS, figure="latency/queries/ours@32", must=100, sense="at most"),
    Demand(row=_SEEDS, figure="latency/prose/ours@8", must=40, sense="at most"),
    Demand(row=_SEEDS, figure="latency/prose/ours@32", must=100, sense="at most"),
)


def measure(form: Form) -> Iterator[Measurement]:
    """One text, what the daemon adds to it, then several at once."""
    rounds, asked = form.choose(quick=2, full=9), form.choose(quick=60, full=500)
    with field(("ours", "ours-int8"), PEERS) as contestants:
        medians = {}
        for measurement in _one(contestants, queries()[:asked], rounds):
            medians[measurement.name] = measurement.values
            yield measurement
        differences = zip(medians["latency/p50/ours"], medians["latency/p50/openvino-bf16"], strict=True)
        beyond = tuple(ours - theirs for ours, theirs in differences)
        yield Measurement(name="latency/beyond-openvino/ours", unit="ms", values=beyond, note="difference of medians")
        ours = contestants["ours"]
        assert isinstance(ours, Ours)
        yield _added(ours, queries()[:asked], rounds)
        for what, texts in (("queries", queries()), ("prose", prose())):
            for count in SEVERAL:
                yield from _several(what, contestants, [texts[n * count : (n + 1) * count] for n in range(asked // 10)])


def _one(contestants: Mapping[str, Contestant], texts: Sequence[str], rounds: int) -> Iterator[Measurement]:
    seconds: dict[str, list[list[float]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in awake(contestants):
            contestant.one_seconds(texts[:_WARM_UP])
            seconds[name].append(contestant.one_seconds(texts))
    for percent in PERCENTILES:
        for name, of_rounds in seconds.items():
            values = tuple(percentile(several, percent) * 1000 for several in of_rounds)
            yield Measurement(name=f"latency/p{percent}/{name}", unit="ms", values=values, note=f"{len(texts)} texts")


def _added(ours: Ours, texts: Sequence[str], rounds: int) -> Measurement:
    """Median of a request's time in the client less the forward pass, which the answer brings along."""
    values = []
    for _ in range(rounds):
        ours.one_seconds(texts[:_WARM_UP])
        answers = [ours.client.embed_detailed(text, model=ours.model) for text in texts]
        values.append(statistics.median(answer.seconds * 1000 - answer.timings.compute_us / 1000 for answer in answers))
    note = "as the client saw it, less the worker's compute_us"
    return Measurement(name="latency/daemon-adds/ours", unit="ms", values=tuple(values), note=note)


def _several(what: str, contestants: Mapping[str, Contestant], calls: Sequence[Sequence[str]]) -> Iterator[Measurement]:
    """A value is one call; every call has texts of its own."""
    for name, contestant in awake(contestants):
        note = contestant.tune(calls[0])
        contestant.embed_seconds(calls[-1])
        values = tuple(contestant.embed_seconds(texts) * 1000 for texts in calls)
        yield Measurement(name=f"latency/{what}/{name}", unit="ms", values=values, at=len(calls[0]), note=note)


if __name__ == "__main__":
    main(__spec__.name, measure)
