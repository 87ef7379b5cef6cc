"""Devices and precisions: what auto is, and what the processor says about itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from embeddaemon.config import hardware
from embeddaemon.errors import UnsupportedModel
from embeddaemon.workers import device

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16", torch.bfloat16),
        ("flags\t\t: fpu amx_bf16", torch.bfloat16),
        ("flags\t\t: fpu avx2 avx512f", torch.float32),
        ("Features\t: fp asimd", torch.float32),
        ("", torch.float32),
    ],
)
def test_auto_precision_is_what_the_processor_does_fast(
    line: str, expected: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n")
    computes = hardware.computes_bfloat16(hardware.processor_flags(cpuinfo))
    monkeypatch.setattr(device, "computes_bfloat16", lambda: computes)
    assert device.resolve_precision("auto", CPU) is expected


def test_processor_that_says_nothing_has_no_flags(tmp_path: Path) -> None:
    assert hardware.processor_flags(tmp_path / "nothing") == frozenset()


def test_named_precision_is_itself() -> None:
    assert device.resolve_precision("float32", CPU) is torch.float32
    assert device.resolve_precision("bfloat16", CPU) is torch.bfloat16


def test_named_cpu_is_itself() -> None:
    assert device.resolve_device("cpu") == CPU


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has a GPU")
def test_auto_device_without_a_gpu_is_the_cpu() -> None:
    assert device.resolve_device("auto") == CPU


@pytest.mark.parametrize("name", ["cuda:x", "cuda:-1", "cpu:3", "gpu", "CPU", ""])
def test_device_that_is_not_known_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedModel):
        device.resolve_device(name)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float32)],
)
def test_auto_precision_on_cuda_is_what_that_generation_does_fast(
    capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert device.resolve_precision("auto", torch.device("cuda", 0)) is expected


def test_auto_precision_on_mps_is_float32() -> None:
    assert device.resolve_precision("auto", torch.device("mps")) is torch.float32


@pytest.mark.parametrize(("version", "is_served"), [(13, False), (14, True)])
def test_bfloat16_on_mps_needs_a_macos_that_has_it(
    version: int, is_served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, _minor: version >= major)
    mps = torch.device("mps")
    assert device.resolve_precision("float16", mps) is torch.float16
    if is_served:
        assert device.resolve_precision("bfloat16", mps) is torch.bfloat16
        return
    with pytest.raises(UnsupportedModel, match="macOS 14"):
        device.resolve_precision("bfloat16", mps)


def test_float16_on_the_cpu_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="float16"):
        device.resolve_precision("float16", CPU)
