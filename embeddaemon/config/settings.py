"""``Settings``: everything the daemon was told, validated. Defaults stand here with their reasons; nothing is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from embeddaemon.models.spec import ModelSpec
from embeddaemon.protocol.limits import Limits


class StartMethod(Enum):
    """How workers come to be."""

    FORK = "fork"
    """From a template that has loaded the model: milliseconds, shared pages. Linux."""
    SPAWN = "spawn"
    """A fresh interpreter that loads for itself: seconds, nothing shared. Everywhere."""


class HardLimits(Enum):
    """What keeps one worker from taking all memory."""

    AUTO = "auto"
    """A cgroup, or where we may not make one RLIMIT_DATA, or where there is neither (macOS) nothing."""
    CGROUP = "cgroup"
    """Counts what is used. The daemon does not start where it may not make one."""
    RLIMIT = "rlimit"
    """RLIMIT_DATA: counts what is mapped. Works everywhere on Linux."""
    OFF = "off"


class LogFormat(Enum):
    """How a log line looks."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Who may talk to the daemon besides its own user, root and the group of the socket file; and over what."""

    users: tuple[str, ...] = ()
    """Names or numbers."""
    groups: tuple[str, ...] = ()
    tcp_endpoint: str | None = None
    """``tcp://ADDRESS:PORT``, beside the socket and only with keys."""
    key_file: str | None = None
    """The daemon's own secret key; None: ``daemon.key`` in the state folder."""
    client_keys: str | None = None
    """Folder of the public keys that may come over tcp; None: ``clients`` in the state folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What one user may take. None: generous for others, unbounded for our own user and root."""

    requests: int | None = None
    """Accepted and not ended."""
    bytes: int | None = None
    """Bodies of those."""
    loads_per_minute: int | None = None
    """Models that asking for them brought in."""
    connections: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the daemon was told. Durations in seconds, sizes in bytes."""

    endpoint: str
    models: tuple[ModelSpec, ...]
    """At least one; names are distinct."""
    default_model: str
    """Name of the model of requests that name none; the first configured unless told otherwise."""
    state_folder: str | None = None
    """Where what loads found out is kept beyond our life (the scales of int8); None: nowhere."""
    memory_budget: str | int = "80%"
    """Share of the real limit, or bytes: what all our processes together may take."""
    memory_reserve: int | None = None
    """Never leased; None: the governor's own choice (governor/budget.py)."""
    gpu_memory_budget: str | int = "90%"
    """Of each NVIDIA card: what others leave is what they take; the display and other programs live there too."""
    start_method: StartMethod = StartMethod.FORK
    hard_limits: HardLimits = HardLimits.AUTO
    limits: Limits = field(default_factory=Limits)
    access: AccessSettings = field(default_factory=AccessSettings)
    per_user: Quotas = field(default_factory=Quotas)
    max_queued_requests: int = 512
    """Waiting per model key; beyond it requests are refused as busy (the field's usual bound)."""
    max_queued_bytes: int = 256 * 1024 * 1024
    """Bodies waiting in all queues together: what clients can make the supervisor hold; at most half of the reserve."""
    cache_bytes: int = 0
    """Answers to small requests kept for when they come again; 0 keeps none: few applications repeat themselves."""
    request_timeout_seconds: float = 30.0
    """Deadline of a request that brings none."""
    drain_seconds: float = 20.0
    """After SIGTERM: how long accepted requests may take to finish; below systemd's usual stop timeout."""
    file_check_seconds: float = 5.0
    """Between two looks if the files of a loaded model changed, and how long they must have been still before they are
    loaded: some dozen ``stat`` for each model. 0 never looks."""
    load_timeout_seconds: float = 600.0
    """A template or worker that is not ready by then is killed: loading 15 GB from a slow disk takes minutes."""
    heartbeat_seconds: float = 0.5
    silent_after_seconds: float = 15.0
    """A worker without any sign of life for so long is killed: a loaded machine delays heartbeats by seconds only."""
    stall_seconds: float = 30.0
    """A worker of which one thread is at one micro-batch for so long is killed; longer where that is only twenty times
    what it should take. A micro-batch should take a twentieth of a second: who takes 30 seconds, hangs."""
    poison_seconds: float = 600.0
    """For how long a text that workers died of is refused: ten minutes make the harm of another try small, and a text
    that was blamed wrongly is served again soon."""
    canary_seconds: float = 300.0
    """How often an idle worker computes a text whose vector is known: some milliseconds. 0: never, nor at its start."""
    restart_limit: int = 10
    """Failures of one model within the window that put it into quarantine: twice what a day of bad luck brings."""
    restart_window_seconds: float = 60.0
    quarantine_seconds: float = 60.0
    """The first time; each that follows twice as long. Long enough that crashes do not take the machine's time."""
    min_residence_seconds: float = 2.0
    """A model that was loaded is not evicted before: twice what loading a usual one takes, so that loading pays."""
    log_format: LogFormat = LogFormat.TEXT
    log_level: str = "info"
    exit_with_parent: bool = False
    """Stop at once when the process that started us is gone: the sidecar of one application."""
    parent_pid: int | None = None
    """Stop at once when this process is gone, whoever started us."""
