"""Between host and device: one array up, one down.

On CUDA both ways are asynchronous: through pinned memory, up on a stream of its own so that the next row's array
arrives while this row computes, and down with an event to wait for. Torch's allocators keep the memory of a copy under
way from being used again. Elsewhere torch's own copies do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from embeddaemon.workers.engines import Ids, Rows


class Transfer(Protocol):
    """Of one device, which is current where it is used."""

    def to_device(self, array: Ids) -> torch.Tensor:
        """The array as int32 on the device, there before anything that is computed from now on."""
        ...

    def to_host(self, rows: torch.Tensor) -> Callable[[], Rows]:
        """Begins to bring float32 rows; the result waits until they are here."""
        ...


class PlainTransfer:
    """By torch's own copies, for any device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def to_device(self, array: Ids) -> torch.Tensor:
        """See Transfer."""
        return torch.from_numpy(array).to(self._device)

    def to_host(self, rows: torch.Tensor) -> Callable[[], Rows]:
        """See Transfer."""

        def fetch() -> Rows:
            fetched: Rows = rows.cpu().numpy()
            return fetched

        return fetch


class CudaTransfer:
    """Through pinned memory."""

    def __init__(self, device: torch.device) -> None:
        self._uploads = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch gives it no types

    def to_device(self, array: Ids) -> torch.Tensor:
        """See Transfer."""
        pinned = torch.empty(len(array), dtype=torch.int32, pin_memory=True)
        pinned.numpy()[:] = array
        computing = torch.cuda.current_stream()
        with torch.cuda.stream(self._uploads):
            arrived = pinned.to("cuda", non_blocking=True)
        computing.wait_stream(self._uploads)
        arrived.record_stream(computing)  # it belongs to the other stream, which must not use its memory again yet
        return arrived

    def to_host(self, rows: torch.Tensor) -> Callable[[], Rows]:
        """See Transfer."""
        pinned = torch.empty(rows.shape, dtype=torch.float32, pin_memory=True)
        pinned.copy_(rows, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # nor this
        arrived.record()

        def fetch() -> Rows:
            arrived.synchronize()  # without the GIL
            fetched: Rows = pinned.numpy()
            return fetched

        return fetch


def transfer_for(device: torch.device) -> Transfer:
    """What is fastest there."""
    return CudaTransfer(device) if device.type == "cuda" else PlainTransfer(device)
