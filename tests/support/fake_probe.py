"""A machine whose memory is set by hand. Passes the same contract test as the probes that read a real one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from embeddaemon.governor.budget import GIB
from embeddaemon.governor.samples import Limit, MemorySample, Observation, Stall


@dataclass(slots=True)
class FakeCard:
    """A device with memory of its own. ``free_bytes`` None: it does not answer."""

    total_bytes: int
    free_bytes: int | None
    name: str = "NVIDIA Fake"


@dataclass(slots=True)
class FakeProbe:
    """Set anything as the story goes on. ``private_bytes`` is by pid, ``cards`` by device ("cuda:0").

    ``trigger`` is any descriptor; who asks for the stall trigger gets a copy of it.
    """

    limit_bytes: int = 8 * GIB
    free_bytes: int = 8 * GIB
    source: str = "fake machine"
    private_bytes: dict[int, int] = field(default_factory=dict)
    cards: dict[str, FakeCard] = field(default_factory=dict)
    some_percent: float | None = 0.0
    kills: int | None = 0
    trigger: int | None = None

    def limit(self) -> Limit:
        return Limit(self.limit_bytes, self.source)

    def device_limits(self) -> Mapping[str, Limit]:
        return {device: Limit(card.total_bytes, card.name) for device, card in self.cards.items()}

    def observe(self, now: float) -> Observation:
        ram = MemorySample(now, min(self.free_bytes, self.limit_bytes), self.limit())
        devices = (
            MemorySample(now, card.free_bytes, Limit(card.total_bytes, card.name), device)
            for device, card in self.cards.items()
            if card.free_bytes is not None
        )
        some = self.some_percent
        stall = None if some is None else Stall(now, some, full_percent=some / 2, is_ours=True)
        return Observation((ram, *devices), stall, self.private_bytes.get(os.getpid(), 0))

    def process_private_bytes(self, pid: int) -> int | None:
        return self.private_bytes.get(pid)

    def kernel_kills(self) -> int | None:
        return self.kills

    def stall_trigger(self) -> int | None:
        return None if self.trigger is None else os.dup(self.trigger)
