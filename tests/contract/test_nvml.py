"""Memory of NVIDIA cards. No card is needed: a stand-in for the library raises the real library's errors."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from embeddaemon.governor.budget import GIB
from embeddaemon.governor.nvml import NvidiaCards, NvmlLibrary, driver_is_loaded, load_nvml
from embeddaemon.governor.probes import SystemProbe
from embeddaemon.governor.samples import Limit, MemorySample
from embeddaemon.supervisor.surroundings.machine import default_device
from tests.support.machine_of_files import MachineOfFiles


@pytest.fixture
def pynvml() -> ModuleType:
    module: ModuleType = pytest.importorskip("pynvml", reason="the package nvidia-ml-py is not installed")
    return module


@dataclass(slots=True)
class Memory:
    total: int
    free: int


@dataclass(slots=True)
class Card:
    uuid: str
    memory: Memory = field(default_factory=lambda: Memory(80 * GIB, 79 * GIB))
    name: str = "NVIDIA H100 80GB HBM3"
    error: int | None = None
    lost: str | None = None
    """The function that says that the card fell off the bus."""


class Library:
    """Has the functions of pynvml that we use. ``errors`` by function, as numbers; a handle is the card."""

    def __init__(self, pynvml: ModuleType, cards: list[Card], errors: Mapping[str, int] | None = None) -> None:
        self.NVMLError: type[Exception] = pynvml.NVMLError
        self.cards = cards
        self.instances: dict[str, Card] = {}
        self.errors = dict(errors or {})
        self.initialised = 0

    def _may_fail(self, function: str) -> None:
        if (error := self.errors.get(function)) is not None:
            raise self.NVMLError(error)

    def nvmlInit(self) -> None:  # noqa: N802 - this and the others have the library's names
        self._may_fail("nvmlInit")
        self.initialised += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._may_fail("nvmlDeviceGetCount")
        return len(self.cards)

    def _may_be_lost(self, card: Card, function: str) -> None:
        if card.lost == function:
            raise self.NVMLError(15)  # NVML_ERROR_GPU_IS_LOST

    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Card:  # noqa: N802
        self._may_be_lost(self.cards[index], "nvmlDeviceGetHandleByIndex")
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str, /) -> Card:  # noqa: N802
        if uuid not in self.instances:
            raise self.NVMLError(6)  # NVML_ERROR_NOT_FOUND
        return self.instances[uuid]

    def nvmlDeviceGetUUID(self, handle: object, /) -> str:  # noqa: N802
        assert isinstance(handle, Card)
        self._may_be_lost(handle, "nvmlDeviceGetUUID")
        return handle.uuid

    def nvmlDeviceGetName(self, handle: object, /) -> str:  # noqa: N802
        assert isinstance(handle, Card)
        self._may_be_lost(handle, "nvmlDeviceGetName")
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: object, /) -> Memory:  # noqa: N802
        assert isinstance(handle, Card)
        self._may_be_lost(handle, "nvmlDeviceGetMemoryInfo")
        if handle.error is not None:
            raise self.NVMLError(handle.error)
        return handle.memory


A, B, C = Card("GPU-aa11-1"), Card("GPU-aa22-2", Memory(24 * GIB, 20 * GIB), "GeForce RTX 4090"), Card("GPU-bb33-3")


def uuids_of(cards: NvidiaCards) -> list[str]:
    cards.limits()
    return [card.handle.uuid for card in cards._found() if isinstance(card.handle, Card)]


def test_every_card_has_a_limit_that_names_it_and_a_sample(pynvml: ModuleType) -> None:
    library = Library(pynvml, [A, B])
    cards = NvidiaCards(lambda: library, None)
    first, second = Limit(80 * GIB, "NVIDIA H100 80GB HBM3"), Limit(24 * GIB, "NVIDIA GeForce RTX 4090")
    assert cards.limits() == {"cuda:0": first, "cuda:1": second}
    assert cards.samples(7.0) == (
        MemorySample(7.0, 79 * GIB, first, "cuda:0"),
        MemorySample(7.0, 20 * GIB, second, "cuda:1"),
    )
    assert library.initialised == 1


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [A, B, C]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2", [C]),
        ("2,0", [C, A]),
        (" 1 , 0 ", [B, A]),
        ("0,-1,1", [A]),
        ("0,3,1", [A]),
        ("1,1", []),
        ("GPU-bb33-3", [C]),
        ("GPU-bb,GPU-aa22", [C, B]),
        ("GPU-aa", []),
        ("GPU-bb33-3,GPU-dd", [C]),
        ("2,GPU-bb", []),
    ],
)
def test_cards_are_numbered_as_cuda_numbers_those_that_are_visible(
    pynvml: ModuleType, visible: str | None, expected: list[Card]
) -> None:
    cards = NvidiaCards(lambda: Library(pynvml, [A, B, C]), visible)
    assert uuids_of(cards) == [card.uuid for card in expected]
    assert list(cards.limits()) == [f"cuda:{number}" for number in range(len(expected))]


def test_an_instance_of_a_divided_card_is_found_by_its_uuid(pynvml: ModuleType) -> None:
    library = Library(pynvml, [A])
    library.instances["MIG-1234"] = Card("MIG-1234", Memory(10 * GIB, 9 * GIB), "NVIDIA A100 MIG 1g.10gb")
    cards = NvidiaCards(lambda: library, "MIG-1234,MIG-9999")
    assert cards.limits() == {"cuda:0": Limit(10 * GIB, "NVIDIA A100 MIG 1g.10gb")}


def test_nothing_is_loaded_before_somebody_asks(pynvml: ModuleType) -> None:
    loads: list[Library] = []

    def load() -> NvmlLibrary:
        loads.append(Library(pynvml, [A]))
        return loads[-1]

    cards = NvidiaCards(load, None)
    assert loads == []
    cards.limits(), cards.limits(), cards.samples(0.0)
    assert [library.initialised for library in loads] == [1]


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetCount"])
@pytest.mark.parametrize("error", [9, 12, 18, 999])
def test_a_driver_that_fails_leaves_no_devices_and_one_line(
    pynvml: ModuleType, function: str, error: int, caplog: pytest.LogCaptureFixture
) -> None:
    cards = NvidiaCards(lambda: Library(pynvml, [A], {function: error}), None)
    assert cards.limits() == {}
    assert cards.limits() == {}
    assert cards.samples(0.0) == ()
    assert [record.getMessage() for record in caplog.records] == [
        f"no_device_memory: NVML says: {pynvml.NVMLError(error)}"
    ]


@pytest.mark.parametrize("visible", [None, "0,1,2", "GPU-1,1,GPU-3"])
@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo"])
def test_a_card_that_is_lost_hides_no_other_and_keeps_its_number(
    pynvml: ModuleType, function: str, visible: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    found = [Card("GPU-1"), Card("GPU-2", lost=function), Card("GPU-3")]
    cards = NvidiaCards(lambda: Library(pynvml, found), visible)
    assert list(cards.limits()) == ["cuda:0", "cuda:2"]
    assert [sample.device for sample in cards.samples(0.0)] == ["cuda:0", "cuda:2"]
    (record,) = caplog.records
    assert "device=cuda:1" in record.getMessage()


def test_a_card_that_does_not_tell_its_uuid_can_be_named_by_its_number(pynvml: ModuleType) -> None:
    found = [Card("GPU-1"), Card("GPU-2", lost="nvmlDeviceGetUUID"), Card("GPU-3")]
    assert list(NvidiaCards(lambda: Library(pynvml, found), "GPU-3,1,0").limits()) == ["cuda:0", "cuda:1", "cuda:2"]
    assert list(NvidiaCards(lambda: Library(pynvml, found), "GPU-3,GPU-2,0").limits()) == ["cuda:0"]


def test_without_the_package_there_are_no_devices_and_the_log_says_what_to_install(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    cards = NvidiaCards(load_nvml, None)
    assert cards.limits() == {}
    assert cards.samples(0.0) == ()
    (record,) = caplog.records
    assert "[cuda]" in record.getMessage()


def test_the_real_package_without_a_driver_leaves_no_devices(
    pynvml: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    if driver_is_loaded():
        pytest.skip("there is a driver here")
    assert NvidiaCards(load_nvml, None).limits() == {}
    assert len(caplog.records) == 1


def test_a_hiccup_of_the_driver_costs_one_sample_and_one_line(
    pynvml: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    flaky, sound = Card("GPU-1"), Card("GPU-2")
    cards = NvidiaCards(lambda: Library(pynvml, [flaky, sound]), None)
    assert len(cards.samples(0.0)) == 2
    flaky.error = pynvml.NVML_ERROR_TIMEOUT
    assert [sample.device for sample in cards.samples(1.0)] == ["cuda:1"]
    assert [sample.device for sample in cards.samples(2.0)] == ["cuda:1"]
    assert len(caplog.records) == 1
    flaky.error = None
    with caplog.at_level(logging.INFO):
        assert [sample.device for sample in cards.samples(3.0)] == ["cuda:0", "cuda:1"]
    assert len(caplog.records) == 2


def test_the_probe_observes_cards_beside_host_memory(pynvml: ModuleType, tmp_path: Path) -> None:
    machine = MachineOfFiles(tmp_path)
    machine.memory(16 * GIB, 12 * GIB)
    probe = SystemProbe(tmp_path, NvidiaCards(lambda: Library(pynvml, [A, B]), "1"))
    assert list(probe.device_limits()) == ["cuda:0"]
    assert [(sample.device, sample.free_bytes) for sample in probe.observe(0.0).samples] == [
        ("ram", 12 * GIB),
        ("cuda:0", 20 * GIB),
    ]


def test_a_driver_is_loaded_where_it_shows_its_version_and_its_control_device(tmp_path: Path) -> None:
    machine = MachineOfFiles(tmp_path)
    assert not driver_is_loaded(tmp_path)
    machine.write("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX\n")
    assert not driver_is_loaded(tmp_path)
    machine.write("/dev/nvidiactl", "")
    assert driver_is_loaded(tmp_path)


LOOKING = """
import sys
from embeddaemon.supervisor import loop
probe = loop.probe_for_this_machine()
probe.device_limits(), probe.observe(0.0)
sys.exit("pynvml" in sys.modules)
"""


def test_the_supervisor_loads_nothing_of_nvidia_where_there_is_no_card() -> None:
    if driver_is_loaded():
        pytest.skip("there is a driver here")
    assert default_device() != "cuda"
    assert subprocess.run([sys.executable, "-c", LOOKING], check=False).returncode == 0
