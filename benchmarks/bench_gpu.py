"""How fast is the daemon on a GPU, beside sentence-transformers on the same one, and which token budget suits it?

``make bench-gpu`` runs it where torch sees a CUDA or MPS device and fails with a plain message where it sees none.
Figures: tokens a second over prose (in process for a sweep of token budgets, then through the socket), milliseconds for
one short text, and two that decide constants of ours: attention by the kernel or by group, pooling by segments or by
length. sentence-transformers gets its best batch size of several, and sorts by length itself.

What would make it lie: a GPU that somebody else uses, or whose clock falls with heat (the rounds of all contestants are
taken in turn, and the spread is kept); a model as small as the bundled one, of which the largest part is launching
kernels, so take a larger one with ``--source`` before you choose a budget for it; tokens counted differently (all are
counted by our tokenizer, cut where the model cuts). In-process figures of ours leave tokenizing out and say so.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks._harness import ROOT, TEXT, VERSIONS, Measurement, Result, commit, daemon, in_turn, machine
from benchmarks.corpus import prose, queries
from embeddaemon import Client
from embeddaemon.models.card import ModelCard
from embeddaemon.models.folder import read_card
from embeddaemon.models.order import LoadOrder
from embeddaemon.models.sources import locate, parse_source
from embeddaemon.models.spec import ModelSpec
from embeddaemon.models.table import default_spec
from embeddaemon.protocol.limits import Limits
from embeddaemon.workers import packing
from embeddaemon.workers.engines import Encoded, Rows
from embeddaemon.workers.engines.torch_engine import load, pooling, segments, varlen
from embeddaemon.workers.engines.torch_engine.row import Row, divide, lay_out

BUDGETS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)
BATCH_SIZES = (32, 128, 512)
ROUNDS = 5
TEXTS = 4000
SHORT_TEXTS = 200
ROW_TOKENS = 8192
DISTINCT_LENGTHS = (1, 2, 4, 8, 16, 64)
CALLS = 20
HEAD_DIM = 64


class Ours:
    """The engine in this process, with two threads in it as in a worker: one waits, one queues the next micro-batch."""

    def __init__(self, card: ModelCard, device: str, token_budget: int) -> None:
        limits = Limits()
        order = LoadOrder(card=card, device=device, precision="auto", token_budget=token_budget, limits=limits)
        self.model = load(order)
        self._threads = ThreadPoolExecutor(2)
        self._card = card
        self._token_budget = token_budget

    def tokenize(self, texts: Sequence[str]) -> list[Encoded]:
        """Without a prompt, cut as the model wants it."""
        return self.model.tokenize(texts, prompt="", max_tokens=self._card.max_tokens)

    def compute(self, encoded: Sequence[Encoded]) -> Rows:
        """(texts, dim), unit length, in the order of the texts."""
        rows = np.empty((len(encoded), self._card.dim), dtype=np.float32)

        def forward(planned: packing.MicroBatch) -> None:
            chosen = [encoded[index].ids for index in planned.indices]
            lengths = np.fromiter(map(len, chosen), dtype=np.int32, count=len(chosen))
            ids = np.concatenate(chosen, dtype=np.int32)
            rows[list(planned.indices)] = self.model.forward(ids, lengths, None)

        planned = packing.plan([len(one.ids) for one in encoded], self._token_budget)
        if len(planned) == 1:
            forward(planned[0])
        else:
            list(self._threads.map(forward, planned))  # a list, so that errors come out
        unit: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


def main() -> None:
    """Measure, print every figure at once, write the result beside the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_gpu", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--source", default=default_spec().source, help="path:DIR, package:NAME or hub:ORG/NAME")
    source: str = parser.parse_args().source
    device = found_device()
    if device is None:
        sys.exit("bench_gpu: torch sees neither a CUDA nor an MPS device here; nothing was measured")
    start, load_before = time.monotonic(), os.getloadavg()[0]
    print(f"== gpu: {name_of(device)}, {source}", flush=True)
    measurements = []
    for measurement in measure(source, device):
        print(f"  {measurement}", flush=True)
        measurements.append(measurement)
    result = Result(
        benchmark="gpu",
        form="full",
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        commit=commit(),
        machine={**machine(), "gpu": name_of(device), "model": source},
        versions={**VERSIONS, "cuda": str(torch.version.cuda)},
        measurements=tuple(measurements),
        load_before=load_before,
        seconds=round(time.monotonic() - start, 1),
    )
    name = re.sub(r"[^a-z0-9]+", "-", f"{name_of(device)} {source.rpartition('/')[2]}".lower()).strip("-")
    path = ROOT / "benchmarks" / "results" / f"gpu-{name}.json"
    result.write(path)
    print(f"written: {path.relative_to(ROOT)}")


def found_device() -> str | None:
    """The first device that is no CPU."""
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else None


def name_of(device: str) -> str:
    """What a person calls it."""
    return torch.cuda.get_device_name(0) if device.startswith("cuda") else f"{platform.processor()} {device}"


def measure(source: str, device: str) -> Iterator[Measurement]:
    """Every figure, as soon as it is there."""
    card = read_card(ModelSpec(name="measured", source=source), locate(parse_source(source)))
    texts = list(prose()[:TEXTS])
    best = None
    for found in _budgets(card, device, texts):
        yield found
        best = found if best is None or found.median > best.median else best
    assert best is not None
    assert best.at is not None
    yield from _contest(card, source, device, texts, int(best.at))
    if device.startswith("cuda"):
        yield from _choices(card, device)


def _budgets(card: ModelCard, device: str, texts: Sequence[str]) -> Iterator[Measurement]:
    """Tokens a second by token budget."""
    for budget in BUDGETS:
        _forget(device)
        ours = Ours(card, device, budget)
        encoded = ours.tokenize(texts)
        tokens = sum(len(one.ids) for one in encoded)
        call = partial(ours.compute, encoded)
        call()
        values = tuple(tokens / _seconds(call) for _ in range(ROUNDS))
        note = f"{ours.model.facts.precision}, without tokenizing, {_peak(device)}"
        yield Measurement(name="gpu/prose/ours-in-process", unit="tokens/s", values=values, at=budget, note=note)


def _contest(card: ModelCard, source: str, device: str, texts: list[str], budget: int) -> Iterator[Measurement]:
    """Through the socket, in process, and sentence-transformers in both precisions, in turn."""
    config = (
        f'[models.measured]\nsource = "{source}"\ndevice = "{device}"\ntoken_budget = {budget}\nkeep_alive = "-1"\n'
    )
    ours = Ours(card, device, budget)
    encoded = ours.tokenize(texts)
    peers = {"st-fp32": _peer(card, device, torch.float32), f"st-{_short(device)}": _peer(card, device, _half(device))}
    sizes = {who: _best_batch_size(peer, texts) for who, peer in peers.items()}
    with daemon(config=config) as running:
        running.wait_until_it_answers()
        with Client(running.endpoint, timeout=600) as client:
            bulk: dict[str, Callable[[], Rows]] = {
                "ours": lambda: client.embed(texts, model="measured"),
                "ours-in-process": partial(ours.compute, encoded),
                **{who: partial(_encode, peer, texts, sizes[who]) for who, peer in peers.items()},
            }
            yield from _throughputs(bulk, sum(len(one.ids) for one in encoded), sizes)
            one: dict[str, Callable[[str], Rows]] = {
                "ours": lambda text: client.embed(text, model="measured"),
                "ours-in-process": lambda text: ours.compute(ours.tokenize([text])),
                **{who: partial(_encode_one, peer) for who, peer in peers.items()},
            }
            yield from _latencies(one)


def _throughputs(
    bulk: dict[str, Callable[[], Rows]], tokens: int, batch_sizes: Mapping[str, int]
) -> Iterator[Measurement]:
    """Tokens a second, and how near everybody's vectors are to those of sentence-transformers in float32."""
    exact = bulk["st-fp32"]()
    notes = {who: f"min cosine {_cosines(call(), exact):.5f} to st-fp32" for who, call in bulk.items()}
    for who, values in in_turn({who: partial(_seconds, call) for who, call in bulk.items()}, ROUNDS).items():
        note = notes[who] + (f", batches of {batch_sizes[who]}" if who in batch_sizes else "")
        speeds = tuple(tokens / seconds for seconds in values)
        yield Measurement(name=f"gpu/prose/{who}", unit="tokens/s", values=speeds, note=note)


def _latencies(calls: dict[str, Callable[[str], Rows]]) -> Iterator[Measurement]:
    """Milliseconds for one short text, every text by everybody before the next."""
    values: dict[str, list[float]] = {who: [] for who in calls}
    for text in (TEXT, *queries()[:SHORT_TEXTS]):
        for who, call in calls.items():
            values[who].append(1000 * _seconds(partial(call, text)))
    for who, several in values.items():
        yield Measurement(
            name=f"gpu/one/{who}", unit="ms", values=tuple(several[1:]), note="the first call is left out"
        )


def _choices(card: ModelCard, device: str) -> Iterator[Measurement]:
    """What the choice of attention and of pooling rests on, for one row by the number of different lengths in it."""
    where, dtype = torch.device(device), _half(device)
    heads = card.hidden // HEAD_DIM
    attend = varlen.choose(where, dtype, varlen.Heads(heads, heads, HEAD_DIM))
    for distinct in DISTINCT_LENGTHS:
        row = _row(where, distinct)
        together = torch.randn(len(row.ids), 3, heads, HEAD_DIM, device=where, dtype=dtype)
        query, key, value = together.unbind(1)
        hidden = query.reshape(len(row.ids), -1)
        contestants: dict[str, Callable[[], torch.Tensor]] = {
            "attention/chosen": partial(attend, query, key, value, row.texts),
            "attention/by-group": partial(varlen.by_group, query, key, value, row.texts),
            "pooling/by-segments": partial(segments.pool, hidden, row, card.pooling),
            "pooling/by-length": partial(pooling.pool, hidden, row.texts, card.pooling, None),
        }
        timed = {who: partial(_device_milliseconds, call) for who, call in contestants.items()}
        for who, values in in_turn(timed, ROUNDS).items():
            yield Measurement(name=f"gpu/{who}", unit="ms", values=values, at=distinct)


def _row(device: torch.device, distinct: int) -> Row:
    """About ROW_TOKENS tokens in texts of ``distinct`` lengths about 64."""
    kinds = [64 - distinct // 2 + step for step in range(distinct)]
    lengths = np.array(sorted((kinds * (ROW_TOKENS // sum(kinds) + 1))[: ROW_TOKENS // 64]), dtype=np.int32)
    nothing = np.zeros(int(lengths.sum()), dtype=np.int32)
    array = lay_out(nothing, nothing, lengths, None)
    return divide(torch.from_numpy(array).to(device), lengths)


def _device_milliseconds(call: Callable[[], torch.Tensor]) -> float:
    """Of one call among many, launched as fast as they can be."""
    call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start) / CALLS


def _peer(card: ModelCard, device: str, dtype: torch.dtype) -> SentenceTransformer:
    peer = SentenceTransformer(card.folder, device=device, local_files_only=True, model_kwargs={"dtype": dtype})
    peer.max_seq_length = card.max_tokens
    return peer


def _encode(peer: SentenceTransformer, texts: Sequence[str], batch_size: int) -> Rows:
    rows: Rows = peer.encode(list(texts), batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)
    return rows


def _encode_one(peer: SentenceTransformer, text: str) -> Rows:
    return _encode(peer, [text], 1)


def _best_batch_size(peer: SentenceTransformer, texts: Sequence[str]) -> int:
    _encode(peer, texts[:512], BATCH_SIZES[0])
    return min(BATCH_SIZES, key=lambda size: _seconds(partial(_encode, peer, texts, size)))


def _half(device: str) -> torch.dtype:
    """What a user of that device would take for speed."""
    return torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float16


def _short(device: str) -> str:
    return "bf16" if _half(device) is torch.bfloat16 else "fp16"


def _cosines(rows: Rows, exact: Rows) -> float:
    """The smallest; both are of unit length."""
    return float(np.einsum("ij,ij->i", rows.astype(np.float32), exact).min())


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _peak(device: str) -> str:
    if not device.startswith("cuda"):
        return "peak not known"
    peak = torch.cuda.max_memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    return f"peak {peak / 2**20:.0f} MiB"


def _forget(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
