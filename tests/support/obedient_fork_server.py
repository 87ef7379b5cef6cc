"""The fork server with the torch engine that obeys the stub engine's commands, a program.

What it computes is the torch engine's; a text that is a command (stub_engine.py has them) is obeyed in the forward
pass that computes it, or in the tokenizer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from embeddaemon.models.order import LoadOrder
from embeddaemon.workers.engines import Encoded, EngineFacts, Ids, LoadedModel, Rows
from embeddaemon.workers.preload import run_fork_server
from embeddaemon.workers.program import EngineProgram, torch_program
from tests.support.stub_engine import COMMANDS, obey


class ObedientModel:
    """A loaded model of the torch engine that does what texts tell it."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._commands: dict[tuple[int, ...], str] = {}

    @property
    def facts(self) -> EngineFacts:
        return self._model.facts

    @property
    def is_reentrant(self) -> bool:
        return self._model.is_reentrant

    def tokenize(
        self, texts: Sequence[str], *, prompt: str, max_tokens: int, between: Callable[[], None] | None = None
    ) -> list[Encoded]:
        if any(text.startswith("tokenizer fails") for text in texts):
            raise RuntimeError("told to fail in the tokenizer")
        encoded = self._model.tokenize(texts, prompt=prompt, max_tokens=max_tokens, between=between)
        for text, one in zip(texts, encoded, strict=True):
            if text.startswith(COMMANDS):
                self._commands[tuple(one.ids.tolist())] = text
        return encoded

    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        rows = self._model.forward(ids, lengths, prompt_lengths)
        start = 0
        for place, length in enumerate(lengths.tolist() if self._commands else ()):
            command = self._commands.get(tuple(ids[start : start + length].tolist()))
            if command is not None:
                obey(command, rows[place])
            start += length
        return rows

    def project(self, rows: Rows, dimensions: int) -> Rows:
        return self._model.project(rows, dimensions)

    def use_threads(self, threads: int) -> None:
        self._model.use_threads(threads)


def program() -> EngineProgram:
    """The torch engine's, obedient."""
    real = torch_program()

    def load(order: LoadOrder) -> LoadedModel:
        return ObedientModel(real.load(order))

    return replace(real, load=load)


if __name__ == "__main__":
    sys.exit(run_fork_server(sys.argv[1:], program()))
