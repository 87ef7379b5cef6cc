"""A machine whose memory is set by hand. Passes the same contract test as the probes that read a real one."""

from __future__ import annotations

from dataclasses import dataclass, field

from embeddaemon.governor.budget import GIB
from embeddaemon.governor.samples import Limit, MemorySample


@dataclass(slots=True)
class FakeProbe:
    """Set ``free_bytes`` and ``private_bytes`` (by pid) as the story goes on."""

    limit_bytes: int = 8 * GIB
    free_bytes: int = 8 * GIB
    source: str = "fake machine"
    private_bytes: dict[int, int] = field(default_factory=dict)

    def limit(self) -> Limit:
        return Limit(self.limit_bytes, self.source)

    def sample(self, now: float) -> MemorySample:
        return MemorySample(now, min(self.free_bytes, self.limit_bytes), self.limit())

    def process_private_bytes(self, pid: int) -> int | None:
        return self.private_bytes.get(pid)
