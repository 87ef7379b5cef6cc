"""A loaded model on a CUDA or MPS device: the ``LoadedModel`` of the seam, and ``Overlapping``, which may be ahead.

``begin`` only queues: the row's array up, the forward, the pooling, the rows down. It asks the device for nothing, so
the next row can be queued while this one computes; ``rows`` waits. It runs on the CPU too, where tests hold it to
model.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from embeddaemon.models.card import ModelCard
from embeddaemon.workers.engines import DeviceLost, Encoded, EngineFacts, Ids, Pending, Rows
from embeddaemon.workers.engines.torch_engine import pooling, segments
from embeddaemon.workers.engines.torch_engine.model import Encode
from embeddaemon.workers.engines.torch_engine.row import Positions, Row, divide, lay_out
from embeddaemon.workers.engines.torch_engine.transfer import transfer_for
from embeddaemon.workers.tokenization import Tokenizer

_FEW_GROUPS = 4
"""Up to as many lengths in a row, pooling length by length launches no more kernels. Counted, not measured."""


class AcceleratedModel:
    """One model in the memory of one device."""

    def __init__(
        self, encode: Encode, positions: Positions, tokenizer: Tokenizer, card: ModelCard, facts: EngineFacts
    ) -> None:
        self._encode = encode
        self._positions = positions
        self._tokenizer = tokenizer
        self._card = card
        self._facts = facts
        self._device = torch.device(facts.device)
        with _on(self._device):
            self._transfer = transfer_for(self._device)

    @property
    def facts(self) -> EngineFacts:
        return self._facts

    def tokenize(self, texts: Sequence[str], *, prompt: str, max_tokens: int) -> list[Encoded]:
        """See LoadedModel."""
        return self._tokenizer.encode(texts, prompt=prompt, max_tokens=max_tokens)

    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        """See LoadedModel."""
        return self.begin(ids, lengths, prompt_lengths).rows()

    @torch.inference_mode()
    def begin(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Pending:
        """See Overlapping."""
        assert int(lengths.sum()) == len(ids), "lengths that do not add up to the tokens"
        if not len(lengths):
            empty = np.empty((0, self._card.dim), dtype=np.float32)
            return _UnderWay(self._device, lambda: empty)
        with _on(self._device):
            array = self._transfer.to_device(lay_out(ids, self._positions(ids, lengths), lengths, prompt_lengths))
            row = divide(array, lengths)
            hidden = self._encode(row.ids, row.positions, row.texts)  # (tokens, hidden)
            return _UnderWay(self._device, self._transfer.to_host(self._pool(hidden, row)))

    def use_threads(self, threads: int) -> None:
        """See LoadedModel."""
        torch.set_num_threads(threads)

    def _pool(self, hidden: torch.Tensor, row: Row) -> torch.Tensor:
        """(tokens, hidden) to (texts, dim)."""
        # MPS has no reduction by segments.
        if self._device.type == "mps" or len(row.texts) <= _FEW_GROUPS:
            return pooling.pool(hidden, row.texts, self._card.pooling, row.prompt_lengths)
        return segments.pool(hidden, row, self._card.pooling)


class _UnderWay:
    """The rows of one ``begin``."""

    def __init__(self, device: torch.device, fetch: Callable[[], Rows]) -> None:
        self._device = device
        self._fetch = fetch

    def rows(self) -> Rows:
        """See Pending."""
        with _on(self._device):
            return self._fetch()


@contextlib.contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """Current device as each thread needs it, and errors that end the use of the device told from others."""
    # Pinned memory, streams and events belong to the current device, which is cuda:0 in every new thread.
    current = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    try:
        with current:
            yield
    except torch.AcceleratorError as error:
        raise DeviceLost(f"{device} failed and computes nothing any more in this process: {error}") from error
