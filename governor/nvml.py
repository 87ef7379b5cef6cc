"""Memory of NVIDIA cards as their driver tells it (NVML). I/O; never a CUDA context, which costs memory on the card.

Per device only: what a single process holds is not told in containers, so workers measure that themselves.
"""
# ruff: noqa: N802 - the functions of the library have its names

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, cast

from embeddaemon.governor.samples import Limit, MemorySample

log = logging.getLogger(__name__)

_Asked = TypeVar("_Asked")
_Told = TypeVar("_Told")


class NvmlMemory(Protocol):
    """Bytes on one card."""

    total: int
    free: int


class NvmlLibrary(Protocol):
    """What we use of the module pynvml. Every call but the first may raise ``NVMLError``; nvmlInit finds the driver."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> object: ...
    def nvmlDeviceGetHandleByUUID(self, uuid: str, /) -> object: ...
    def nvmlDeviceGetUUID(self, handle: object, /) -> str: ...
    def nvmlDeviceGetName(self, handle: object, /) -> str: ...
    def nvmlDeviceGetMemoryInfo(self, handle: object, /) -> NvmlMemory: ...


def driver_is_loaded(root: Path = Path("/")) -> bool:
    """Whether the system shows an NVIDIA driver. Loads nothing."""
    return (root / "proc/driver/nvidia/version").exists() and (root / "dev/nvidiactl").exists()


def load_nvml() -> NvmlLibrary:
    """The module of the package nvidia-ml-py. Raises ImportError without it."""
    import pynvml  # noqa: PLC0415 - only where there is a driver, and never needed elsewhere

    return cast("NvmlLibrary", pynvml)  # a module without types


class NvidiaCards:
    """The cards in the order in which CUDA numbers them for a process with this ``CUDA_VISIBLE_DEVICES``.

    Equal, that is, for cards of one kind and for CUDA_DEVICE_ORDER=PCI_BUS_ID, the order of NVML. They are looked for
    at the first question. Without the package, the driver or cards there are none, and one line in the log says so.
    A card that does not answer then is left out, with a line of its own, and its number stays free.
    """

    def __init__(self, load: Callable[[], NvmlLibrary], visible: str | None) -> None:
        self._load = load
        self._visible = visible
        self._library: NvmlLibrary | None = None
        self._cards: tuple[_Card, ...] | None = None
        self._silent: set[str] = set()

    def limits(self) -> dict[str, Limit]:
        """All memory of each card, by device: ``cuda:0``."""
        return {card.device: card.limit for card in self._found()}

    def samples(self, now: float) -> tuple[MemorySample, ...]:
        """What is free on each card; one that cannot be asked now has no sample, and the log says it once."""
        samples = (self._sample(card, now) for card in self._found())
        return tuple(sample for sample in samples if sample is not None)

    def _found(self) -> tuple[_Card, ...]:
        if self._cards is None:
            self._cards = self._find()
        return self._cards

    def _find(self) -> tuple[_Card, ...]:
        try:
            self._library = library = self._load()
        except ImportError:
            log.warning("no_device_memory: an NVIDIA driver is here, the package nvidia-ml-py is not: install [cuda]")
            return ()
        try:
            library.nvmlInit()
            handles = _visible_handles(library, self._visible)
        except library.NVMLError as error:
            log.warning("no_device_memory: NVML says: %s", error)
            return ()
        cards = (_card(library, f"cuda:{number}", handle) for number, handle in enumerate(handles))
        return tuple(card for card in cards if card is not None)

    def _sample(self, card: _Card, now: float) -> MemorySample | None:
        library = self._library
        assert library is not None
        try:
            memory = library.nvmlDeviceGetMemoryInfo(card.handle)
        except library.NVMLError as error:
            if card.device not in self._silent:
                self._silent.add(card.device)
                log.warning("no_device_sample device=%s error=%s", card.device, error)
            return None
        if card.device in self._silent:
            self._silent.remove(card.device)
            log.info("device_sample_again device=%s", card.device)
        return MemorySample(now, min(memory.free, card.limit.bytes), card.limit, card.device)


@dataclass(frozen=True, slots=True)
class _Card:
    device: str
    handle: object
    """Opaque: a pointer of the library."""
    limit: Limit


def _card(library: NvmlLibrary, device: str, handle: object | None) -> _Card | None:
    """None, and a line in the log, for one that does not answer; ``handle`` is None when it did not answer before."""
    if handle is None:
        log.warning("no_device_memory device=%s error=the card does not answer", device)
        return None
    try:
        name = library.nvmlDeviceGetName(handle)
        total_bytes = library.nvmlDeviceGetMemoryInfo(handle).total
    except library.NVMLError as error:
        log.warning("no_device_memory device=%s error=%s", device, error)
        return None
    source = name if name.startswith("NVIDIA") else f"NVIDIA {name}"
    return _Card(device, handle, Limit(total_bytes, source))


def _visible_handles(library: NvmlLibrary, visible: str | None) -> list[object | None]:
    """The cards that ``CUDA_VISIBLE_DEVICES`` leaves, as CUDA reads it; None for one that does not answer.

    Entries are numbers, UUIDs or their unique beginnings, and UUIDs of MIG instances. The first that names nothing ends
    the list, as "-1" does, and one named twice empties it.
    """
    every = [
        _answer(library, library.nvmlDeviceGetHandleByIndex, index) for index in range(library.nvmlDeviceGetCount())
    ]
    if visible is None:
        return every
    uuids = [None if handle is None else _answer(library, library.nvmlDeviceGetUUID, handle) for handle in every]
    chosen: dict[str | int, object | None] = {}
    for entry in visible.split(","):
        name = entry.strip()
        if name.startswith("MIG-"):
            handle = _answer(library, library.nvmlDeviceGetHandleByUUID, name)
            card: str | int | None = None if handle is None else name
        else:
            card = number = _named(name, uuids)
            handle = None if number is None else every[number]
        if card is None:
            break
        if card in chosen:
            return []
        chosen[card] = handle
    return list(chosen.values())


def _answer(library: NvmlLibrary, question: Callable[[_Asked], _Told], about: _Asked) -> _Told | None:
    """None when the library has an error instead."""
    try:
        return question(about)
    except library.NVMLError:
        return None


def _named(name: str, uuids: list[str | None]) -> int | None:
    """The number of the card that an entry means."""
    if name.isdecimal():
        return int(name) if int(name) < len(uuids) else None
    meant = [number for number, uuid in enumerate(uuids) if name.startswith("GPU-") and (uuid or "").startswith(name)]
    return meant[0] if len(meant) == 1 else None
