"""The torch engine with an appetite: the fork server's program ``python -m benchmarks._storm_engine``.

It computes what the real one computes. Beside that, whoever computes the text ``eat N MiB`` or ``eat N GiB`` takes so
much more memory first, writes to all of it and never gives it back. The answer is the text's right vector.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from embeddaemon.models.order import LoadOrder
from embeddaemon.workers.engines import Encoded, EngineFacts, Ids, LoadedModel, Rows
from embeddaemon.workers.preload import run_fork_server
from embeddaemon.workers.program import EngineProgram, torch_program

_EAT = re.compile(r"eat ([0-9]+) ([MG])iB")
_STEP_BYTES = 4 * 2**20
_UNITS = {"M": 2**20, "G": 2**30}

_kept: list[bytearray] = []


class GreedyModel:
    """A loaded model that obeys what it is told to eat in the forward pass."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._meals: dict[tuple[int, ...], int] = {}

    @property
    def facts(self) -> EngineFacts:
        return self._model.facts

    @property
    def is_reentrant(self) -> bool:
        return self._model.is_reentrant

    def tokenize(
        self, texts: Sequence[str], *, prompt: str, max_tokens: int, between: Callable[[], None] | None = None
    ) -> list[Encoded]:
        encoded = self._model.tokenize(texts, prompt=prompt, max_tokens=max_tokens, between=between)
        for text, one in zip(texts, encoded, strict=True):
            if told := _EAT.fullmatch(text):
                self._meals[tuple(one.ids)] = int(told[1]) * _UNITS[told[2]]
        return encoded

    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        start = 0
        for length in lengths.tolist() if self._meals else ():
            _eat(self._meals.get(tuple(ids[start : start + length].tolist()), 0))
            start += length
        return self._model.forward(ids, lengths, prompt_lengths)

    def project(self, rows: Rows, dimensions: int) -> Rows:
        return self._model.project(rows, dimensions)

    def use_threads(self, threads: int) -> None:
        self._model.use_threads(threads)


def _eat(count: int) -> None:
    for _ in range(0, count, _STEP_BYTES):
        _kept.append(bytearray(b"\xa5") * _STEP_BYTES)  # noqa: PERF401 - what was eaten before an error stays eaten


def program() -> EngineProgram:
    """The torch engine's, greedy."""
    real = torch_program()

    def load(order: LoadOrder) -> LoadedModel:
        return GreedyModel(real.load(order))

    return replace(real, load=load)


if __name__ == "__main__":
    sys.exit(run_fork_server(sys.argv[1:], program()))
