"""A loaded model of the torch engine on the CPU: the ``LoadedModel`` of the seam. For other devices: accelerated.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from embeddaemon.models.card import ModelCard
from embeddaemon.workers.engines import Encoded, EngineFacts, Ids, Rows
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup, groups_of
from embeddaemon.workers.engines.torch_engine.heads import Heads
from embeddaemon.workers.engines.torch_engine.pooling import pool
from embeddaemon.workers.engines.torch_engine.rounding import rounded_up
from embeddaemon.workers.engines.torch_engine.row import Positions
from embeddaemon.workers.tokenization import Tokenizer

Encode = Callable[[torch.Tensor, torch.Tensor, Sequence[LengthGroup]], torch.Tensor]
"""A family's forward: ids and positions (tokens,) to the last hidden state (tokens, hidden)."""


class TorchModel:
    """One model in memory."""

    def __init__(
        self,
        encode: Encode,
        positions: Positions,
        tokenizer: Tokenizer,
        card: ModelCard,
        facts: EngineFacts,
        *,
        heads: Heads,
    ) -> None:
        self._encode = encode
        self._positions = positions
        self._tokenizer = tokenizer
        self._card = card
        self._facts = facts
        self._heads = heads

    @property
    def facts(self) -> EngineFacts:
        return self._facts

    @property
    def is_reentrant(self) -> bool:
        """See LoadedModel."""
        return True

    def tokenize(
        self, texts: Sequence[str], *, prompt: str, max_tokens: int, between: Callable[[], None] | None = None
    ) -> list[Encoded]:
        """See LoadedModel."""
        return self._tokenizer.encode(texts, prompt=prompt, max_tokens=max_tokens, between=between)

    @torch.inference_mode()
    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        """See LoadedModel."""
        assert int(lengths.sum()) == len(ids), "lengths that do not add up to the tokens"
        if not len(lengths):
            return np.empty((0, self._card.pooled_dim), dtype=np.float32)
        groups = groups_of(lengths.tolist())
        row_tokens = rounded_up(len(ids))
        row, positions = (_tensor(values, row_tokens) for values in (ids, self._positions(ids, lengths)))
        hidden = self._encode(row, positions, groups)  # (row tokens, hidden)
        prompts = None if prompt_lengths is None else _tensor(prompt_lengths, len(prompt_lengths))
        rows: Rows = pool(hidden, groups, self._card.pooling, prompts).numpy()  # (texts, pooled_dim)
        return rows

    def project(self, rows: Rows, dimensions: int) -> Rows:
        """See LoadedModel."""
        return self._heads.project(rows, dimensions)

    def use_threads(self, threads: int) -> None:
        """See LoadedModel."""
        torch.set_num_threads(threads)


def _tensor(values: Ids, length: int) -> torch.Tensor:
    """The values and zeros up to ``length``."""
    # A copy: the caller's memory may be read-only, and torch looks up embeddings fastest by int64.
    copied = np.zeros(length, dtype=np.int64)
    copied[: len(values)] = values
    return torch.from_numpy(copied)
