"""A loaded model on a CUDA or MPS device: the ``LoadedModel`` of the seam.

A forward first queues everything: the row's array up, the layers, the pooling, the rows down. It asks the device for
nothing meanwhile, and then waits without the GIL. So while one thread waits, another queues the next row, which is all
that it takes to keep a device busy. It runs on the CPU too, where tests hold it to model.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from embeddaemon.models.card import ModelCard
from embeddaemon.workers.engines import DeviceFull, DeviceLost, DeviceMemory, Encoded, EngineFacts, Ids, Rows
from embeddaemon.workers.engines.torch_engine import pooling, segments
from embeddaemon.workers.engines.torch_engine.heads import Heads
from embeddaemon.workers.engines.torch_engine.model import Encode
from embeddaemon.workers.engines.torch_engine.row import Positions, Row, divide, lay_out
from embeddaemon.workers.engines.torch_engine.transfer import transfer_for
from embeddaemon.workers.tokenization import Tokenizer

_FEW_GROUPS = 4
"""Up to as many lengths in a row, pooling length by length launches no more kernels. Counted, not measured."""

_CUDA_CONTEXT_BYTES = 640 * 1024 * 1024
"""What CUDA itself takes of a device per process: the context and its kernels. Half a gigabyte or more with torch's
libraries, by device and driver, and beside other processes nothing tells it apart."""


class AcceleratedModel:
    """One model in the memory of one device."""

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
        self._device = torch.device(facts.device)
        with _on(self._device):
            self._transfer = transfer_for(self._device)

    @property
    def facts(self) -> EngineFacts:
        return self._facts

    @property
    def is_reentrant(self) -> bool:
        """See LoadedModel. Torch's MPS keeps one command buffer, which threads must not share."""
        return self._device.type != "mps"

    def tokenize(
        self, texts: Sequence[str], *, prompt: str, max_tokens: int, between: Callable[[], None] | None = None
    ) -> list[Encoded]:
        """See LoadedModel."""
        return self._tokenizer.encode(texts, prompt=prompt, max_tokens=max_tokens, between=between)

    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        """See LoadedModel. Raises DeviceFull and DeviceLost."""
        assert int(lengths.sum()) == len(ids), "lengths that do not add up to the tokens"
        if not len(lengths):
            return np.empty((0, self._card.pooled_dim), dtype=np.float32)
        with _on(self._device):
            return self._queue(ids, lengths, prompt_lengths)()

    @torch.inference_mode()
    def _queue(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Callable[[], Rows]:
        """Everything that the device has to do, without waiting for any of it; the result waits for the rows."""
        array = lay_out(ids, self._positions(ids, lengths), lengths, prompt_lengths)
        row = divide(self._transfer.to_device(array), lengths)
        hidden = self._encode(row.ids, row.positions, row.texts)  # (tokens, hidden)
        return self._transfer.to_host(self._pool(hidden, row))

    def project(self, rows: Rows, dimensions: int) -> Rows:
        """See LoadedModel. Raises DeviceFull and DeviceLost."""
        with _on(self._device):
            return self._heads.project(rows, dimensions)

    def use_threads(self, threads: int) -> None:
        """See LoadedModel."""
        torch.set_num_threads(threads)

    def device_memory(self) -> DeviceMemory:
        """See OnDevice."""
        if self._device.type == "cuda":
            return DeviceMemory(torch.cuda.memory_reserved(self._device) + _CUDA_CONTEXT_BYTES, 0)
        if self._device.type == "mps":
            return DeviceMemory(0, torch.mps.driver_allocated_memory())
        return DeviceMemory(0, 0)

    def give_back(self) -> None:
        """See OnDevice."""
        with _on(self._device):
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            elif self._device.type == "mps":
                torch.mps.empty_cache()

    def _pool(self, hidden: torch.Tensor, row: Row) -> torch.Tensor:
        """(tokens, hidden) to (texts, pooled_dim)."""
        # MPS has no reduction by segments.
        if self._device.type == "mps" or len(row.texts) <= _FEW_GROUPS:
            return pooling.pool(hidden, row.texts, self._card.pooling, row.prompt_lengths)
        return segments.pool(hidden, row, self._card.pooling)


@contextlib.contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """Current device as each thread needs it, and errors that end the use of the device told from others."""
    # Pinned memory, streams and events belong to the current device, which is cuda:0 in every new thread.
    current = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    try:
        with current:
            yield
    except torch.OutOfMemoryError as error:
        raise DeviceFull(f"{device} has no memory left: {error}") from error
    except torch.AcceleratorError as error:
        raise DeviceLost(f"{device} failed and computes nothing any more in this process: {error}") from error
    except RuntimeError as error:
        if device.type == "mps" and "out of memory" in str(error):  # which has no class of its own there
            raise DeviceFull(f"{device} has no memory left: {error}") from error
        raise
