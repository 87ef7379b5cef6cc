"""What a model on a device says of its memory, and what it does when the device is full; torch's part is played."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embeddaemon.workers.engines import DeviceFull, DeviceLost, DeviceMemory, OnDevice, device_memory
from embeddaemon.workers.engines.torch_engine import accelerated
from embeddaemon.workers.engines.torch_engine.accelerated import AcceleratedModel
from embeddaemon.workers.exhaustion import is_out_of_memory
from tests.support.checkpoints import TinyBert
from tests.support.embedding import embedder_of

MIB = 1024 * 1024


class Told:
    """A model's forward that fails as it is told to."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self, *_: object) -> torch.Tensor:
        raise self._error


def model_on(device: str, tmp_path: Path, error: Exception | None = None) -> AcceleratedModel:
    """On the CPU, and believing itself to be elsewhere."""
    tiny = embedder_of(TinyBert().write(tmp_path)).model
    encode = Told(error or AssertionError("not to be computed"))
    model = AcceleratedModel(encode, tiny._positions, tiny._tokenizer, tiny._card, tiny.facts, heads=tiny._heads)  # type: ignore[attr-defined]  # the torch engine's
    model._device = torch.device(device)
    return model


def test_cuda_model_holds_what_torch_reserved_and_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: {torch.device("cuda:1"): 300 * MIB}[device])
    assert device_memory(model_on("cuda:1", tmp_path)) == DeviceMemory(
        own_bytes=300 * MIB + accelerated._CUDA_CONTEXT_BYTES, unified_bytes=0
    )


def test_mps_model_holds_memory_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 200 * MIB)
    assert device_memory(model_on("mps", tmp_path)) == DeviceMemory(own_bytes=0, unified_bytes=200 * MIB)


def test_model_on_the_cpu_holds_nothing_of_a_device(tmp_path: Path) -> None:
    model = embedder_of(TinyBert().write(tmp_path)).model
    assert not isinstance(model, OnDevice)
    assert device_memory(model) == DeviceMemory(0, 0)


def test_mps_gives_back_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied = []
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append("mps"))
    model_on("mps", tmp_path).give_back()
    assert emptied == ["mps"]


@pytest.mark.parametrize(
    ("device", "error", "expected"),
    [
        ("cpu", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), DeviceFull),
        ("mps", RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)"), DeviceFull),
        ("cpu", torch.AcceleratorError("an illegal memory access was encountered"), DeviceLost),
        ("mps", RuntimeError("some other failure"), RuntimeError),
    ],
)
def test_full_device_is_told_from_a_lost_one(
    tmp_path: Path, device: str, error: Exception, expected: type[Exception]
) -> None:
    model = model_on(device, tmp_path, error)
    row = np.array([2, 5, 3], dtype=np.int32), np.array([3], dtype=np.int32)
    with pytest.raises(expected) as raised:
        model.forward(*row, None)
    assert type(raised.value) is expected
    assert not is_out_of_memory(raised.value)
