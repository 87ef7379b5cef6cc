"""A machine built of files: /proc and cgroups in a folder, for the probe that reads a real one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embeddaemon.governor.probes import SystemProbe
from embeddaemon.governor.samples import MemorySample

UNLIMITED_V1 = 9223372036854771712


@dataclass(frozen=True, slots=True)
class MachineOfFiles:
    root: Path

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def memory(self, total: int, available: int) -> None:
        self.write(
            "/proc/meminfo", f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\n"
        )

    def mounts(self, *lines: str) -> None:
        self.write("/proc/self/mountinfo", "".join(f"{line}\n" for line in lines))

    def own_cgroup(self, *lines: str) -> None:
        self.write("/proc/self/cgroup", "".join(f"{line}\n" for line in lines))

    def v2(
        self,
        path: str,
        *,
        current: int,
        maximum: int | str = "max",
        high: int | str = "max",
        cache: int = 0,
        slab: int = 0,
    ) -> None:
        self.write(f"{path}/memory.max", f"{maximum}\n")
        self.write(f"{path}/memory.high", f"{high}\n")
        self.write(f"{path}/memory.current", f"{current}\n")
        files = f"inactive_file {cache - cache // 4}\nactive_file {cache // 4}\n"
        self.write(f"{path}/memory.stat", f"anon 1\n{files}slab_reclaimable {slab}\nslab_unreclaimable 7\n")

    def v1(
        self,
        path: str,
        *,
        usage: int,
        limit: int = UNLIMITED_V1,
        cache: int = 0,
        hierarchical: int | None = None,
    ) -> None:
        self.write(f"{path}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"{path}/memory.usage_in_bytes", f"{usage}\n")
        smallest = limit if hierarchical is None else hierarchical
        self.write(
            f"{path}/memory.stat",
            f"inactive_file 7\nactive_file 7\nhierarchical_memory_limit {smallest}\n"
            f"total_inactive_file {cache - cache // 4}\ntotal_active_file {cache // 4}\n",
        )

    def v1_with_swap(self, path: str, *, usage: int, limit: int) -> None:
        self.write(f"{path}/memory.memsw.limit_in_bytes", f"{limit}\n")
        self.write(f"{path}/memory.memsw.usage_in_bytes", f"{usage}\n")

    def pressure(self, path: str, *, some: str, full: str) -> None:
        rest = "avg60=1.00 avg300=2.00 total=123"
        self.write(path, f"some avg10={some} {rest}\nfull avg10={full} {rest}\n")

    @property
    def probe(self) -> SystemProbe:
        return SystemProbe(self.root)

    def sample(self) -> MemorySample:
        return self.probe.observe(0.0).samples[0]


V2_MOUNT = "30 23 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MEMORY_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory"
V1_CPU_MOUNT = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"
HYBRID_V2_MOUNT = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
