"""How many tokens a second go from text to vector, ours through the socket and every peer, and how exact are they?

Bulk on prose of mixed lengths and on short queries, then texts of one length from 8 to 256 tokens. Everybody gets the
same texts, cuts them at the model's 256 tokens, and is counted by the same tokenizer, padding not included; peers sort
by length and take the batch size that was fastest for such texts. Cosines are against sentence-transformers in fp32,
on the texts of the bulk figure; int8, ours and theirs, was calibrated on others.

It lies where somebody else computes at the same time (the rounds go A B C A B C, look at the spread); where a daemon
caches, since every round has the same texts (ours does not unless told to); where a figure is taken from texts of one
length, since padding costs nothing there; on a processor without bf16, where the ratios are others; and where the clock
of the processor drops after a minute of work, which the quick form is too short to see.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from benchmarks._contestants import OURS, Contestant, awake, cosines, field, precision_of, turn
from benchmarks._harness import Demand, Form, Measurement, in_turn, main
from benchmarks.corpus import prose, queries
from benchmarks.peers import MAX_TOKENS, ROSTER, model_folder

REFERENCE = "st-fp32"
SWEPT = ("st-fp32", "st-openvino-bf16", "openvino-bf16", "infinity-bf16", "ours")
LONG, SHORT = (64, 128, 256), (8, 16, 32)
_ONLY_FULL = ("openvino-fp32", "infinity-fp32")
"""No demand names them, and they are slow."""
_BULK = "bulk, mixed lengths, through the socket"
_INT8 = "the same in the int8 class"
_EXACT = "accuracy against fp32 in `auto`"

DEMANDS = (
    Demand(row=_BULK, figure="throughput/prose/ours", against="throughput/prose/st-fp32", must=5),
    Demand(row=_BULK, figure="throughput/prose/ours", against="throughput/prose/st-openvino-bf16", must=1.3),
    Demand(row=_BULK, figure="throughput/prose/ours", against="throughput/prose/openvino-bf16", must=1, goal=1.2),
    Demand(row=_INT8, figure="throughput/prose/ours-int8", against="throughput/prose/st-openvino-int8", must=1.2),
    Demand(
        row=_INT8, figure="throughput/prose/ours-int8", against="throughput/prose/openvino-int8", must=None, goal=1.1
    ),
    Demand(row=_INT8, figure="throughput/cosine-min/ours-int8", must=0.99),
    Demand(row=_INT8, figure="throughput/cosine-mean/ours-int8", must=0.997),
    Demand(row=_EXACT, figure="throughput/cosine-min/ours", must=0.9995),
    Demand(row=_EXACT, figure="throughput/cosine-mean/ours", must=0.9999),
    Demand(row="seeds' targets", figure="throughput/queries/ours", must=1000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """Texts that everybody computes, round after round."""

    what: str
    texts: Sequence[str]
    rounds: int
    sample: int
    """So many of the texts choose the batch size; 0: it stays what it was for the last section."""
    counted_in: Literal["tok/s", "texts/s"] = "tok/s"
    at: float | None = None

    @property
    def amount(self) -> int:
        return tokens_of(self.texts) if self.counted_in == "tok/s" else len(self.texts)


def measure(form: Form) -> Iterator[Measurement]:
    """Accuracy, prose and the lengths that are like it, then queries and the lengths that are like them."""
    texts, short = prose()[: form.choose(quick=300, full=1500)], queries()[: form.choose(quick=400, full=3000)]
    rounds, sample = form.choose(quick=2, full=7), form.choose(quick=32, full=128)
    with field(OURS, [name for name in ROSTER if form is Form.FULL or name not in _ONLY_FULL]) as contestants:
        yield from _accuracy(contestants, texts)
        yield from _rates(_Section(what="prose", texts=texts, rounds=rounds, sample=sample), contestants)
        yield from _sweep(form, LONG, contestants)
        section = _Section(what="queries", texts=short, rounds=rounds, sample=sample, counted_in="texts/s")
        yield from _rates(section, contestants)
        yield from _sweep(form, SHORT, contestants)


def _sweep(form: Form, lengths: Sequence[int], contestants: Mapping[str, Contestant]) -> Iterator[Measurement]:
    swept = {name: contestant for name, contestant in contestants.items() if name in SWEPT}
    budget, rounds = form.choose(quick=2_000, full=20_000), form.choose(quick=1, full=5)
    for length in lengths:
        several = texts_of(length, budget // length)
        sample = form.choose(quick=0, full=128)
        yield from _rates(_Section(what="sweep", texts=several, rounds=rounds, sample=sample, at=length), swept)


def _accuracy(contestants: Mapping[str, Contestant], texts: Sequence[str]) -> Iterator[Measurement]:
    vectors = {name: contestant.vectors(texts) for name, contestant in awake(contestants)}
    for name in contestants:
        found = cosines(vectors[name], vectors[REFERENCE])
        note = f"{len(texts)} texts, {precision_of(name)}"
        for what, value in (("min", found.min()), ("mean", found.mean())):
            yield Measurement(name=f"throughput/cosine-{what}/{name}", unit="cosine", values=(float(value),), note=note)


def _rates(section: _Section, contestants: Mapping[str, Contestant]) -> Iterator[Measurement]:
    """Everybody at their best batch size for these texts; a value is the amount by the seconds of one pass."""
    sample = section.texts[: section.sample]
    tuned = {name: contestant.tune(sample) for name, contestant in awake(contestants)} if sample else {}
    turns = {
        name: turn(contestant, section.texts[:8], functools.partial(contestant.embed_seconds, section.texts))
        for name, contestant in contestants.items()
    }
    for name, seconds in in_turn(turns, section.rounds).items():
        yield Measurement(
            name=f"throughput/{section.what}/{name}",
            unit=section.counted_in,
            values=tuple(section.amount / one for one in seconds),
            at=section.at,
            note=tuned.get(name, ""),
        )


def _tokenizer(most: int | None) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if most is not None:
        tokenizer.enable_truncation(most)
    return tokenizer


def tokens_of(texts: Sequence[str]) -> int:
    """Computed by anybody who computes no padding, special tokens included."""
    return sum(len(encoding.ids) for encoding in _tokenizer(MAX_TOKENS).encode_batch_fast(list(texts)))


def texts_of(length: int, count: int) -> list[str]:
    """Texts of so many tokens, a few more or fewer: all prose in one row, cut where a token begins a word."""
    row = " ".join(prose())[: 16 * length * count]
    offsets = np.array(_tokenizer(None).encode(row, add_special_tokens=False).offsets)
    starts = offsets[:: length - 2, 0][: count + 1]
    assert len(starts) == count + 1, "the corpus is too short for so many texts"
    return [row[begin:end].strip() for begin, end in itertools.pairwise(starts)]


if __name__ == "__main__":
    main(__spec__.name, measure)
