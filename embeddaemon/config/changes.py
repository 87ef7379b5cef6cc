"""What a new configuration changes, and what it takes: nothing, new workers, or a new start of the daemon. Pure.

Every field of Settings and of ModelSpec is in exactly one of the tables here; the tests see to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from embeddaemon.config.given import dotted
from embeddaemon.config.options import ACCESS, DAEMON, LIMITS, MODEL, PER_USER, Option
from embeddaemon.config.settings import Settings
from embeddaemon.models.spec import ModelSpec

AT_ONCE = frozenset(
    {
        "default_model",
        "max_queued_requests",
        "max_queued_bytes",
        "request_timeout_seconds",
        "drain_seconds",
        "file_check_seconds",
        "load_timeout_seconds",
        "stall_seconds",
        "poison_seconds",
        "canary_seconds",
        "restart_limit",
        "restart_window_seconds",
        "quarantine_seconds",
        "log_format",
        "log_level",
    }
)
"""Fields of Settings that are looked at whenever they matter."""

TABLES = frozenset({"models", "limits", "access", "per_user"})
"""Fields of Settings that are compared key by key."""

_SOCKET = "clients are connected there"
_GIVEN = "every process was told at its start"
_LEDGER = "what is leased was granted by it"
_BIRTH = "it belongs to the start of the daemon"

AT_RESTART: Mapping[str, str] = {
    "endpoint": _SOCKET,
    "state_folder": _GIVEN,
    "memory_budget": _LEDGER,
    "memory_reserve": _LEDGER,
    "gpu_memory_budget": _LEDGER,
    "cache_bytes": _LEDGER,
    "min_residence_seconds": _LEDGER,
    "start_method": _GIVEN,
    "hard_limits": _GIVEN,
    "heartbeat_seconds": _GIVEN,
    "silent_after_seconds": "it goes with the heartbeats, of which every process was told at its start",
    "exit_with_parent": _BIRTH,
    "parent_pid": _BIRTH,
}
"""Fields of Settings that stay as they are until the daemon is started again, and why."""

_LIMITS_STAY = "they were announced to the clients that are connected"
_NETWORK_STAYS = "the daemon listens to the network with it since its start"
NETWORK = ("tcp_endpoint", "key_file", "client_keys")
"""Fields of AccessSettings that stay as they are. Who may talk is in force at once, and so are quotas."""

WITHOUT_NEW_WORKERS = frozenset({"estimate", "keep_alive_seconds", "pinned", "preload"})
"""Fields of ModelSpec that say how a model is kept. All others are in what its processes have loaded."""


@dataclass(frozen=True, slots=True)
class ModelChange:
    """Of a model that was configured and is."""

    spec: ModelSpec
    """From now on."""
    keys: tuple[str, ...]
    """That have another value."""
    needs_workers: bool
    """Those that serve were made for the old values."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A key whose new value waits for the next start."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Between two configurations."""

    settings: Settings
    """In force from now on: the new ones, with the old values of what is kept."""
    added: tuple[ModelSpec, ...]
    removed: tuple[str, ...]
    changed: tuple[ModelChange, ...]
    at_once: tuple[str, ...]
    """Keys outside of models."""
    kept: tuple[Kept, ...]

    @property
    def to_be_read(self) -> tuple[ModelSpec, ...]:
        """Models whose folders say what is not known yet."""
        return (*self.added, *(change.spec for change in self.changed if change.needs_workers))


def compare(old: Settings, new: Settings) -> Changes:
    """What is to be done so that ``new`` is in force."""
    kept = [Kept(_key(name), reason) for name, reason in AT_RESTART.items() if _differs(old, new, name)]
    kept += [Kept(key, _LIMITS_STAY) for key in _changed("limits", LIMITS, old.limits, new.limits)]
    network = {key: option for key, option in ACCESS.items() if option.field in NETWORK}
    kept += [Kept(key, _NETWORK_STAYS) for key in _changed("access", network, old.access, new.access)]
    settings = replace(
        new,
        limits=old.limits,
        access=replace(new.access, **{name: getattr(old.access, name) for name in NETWORK}),
        **{name: getattr(old, name) for name in AT_RESTART},
    )
    before = {spec.name: spec for spec in old.models}
    after = {spec.name: spec for spec in new.models}
    return Changes(
        settings=settings,
        added=tuple(spec for name, spec in after.items() if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(
            change_of(before[name], spec) for name, spec in after.items() if name in before and before[name] != spec
        ),
        at_once=(
            *(_key(name) for name in sorted(AT_ONCE) if _differs(old, settings, name)),
            *_changed("access", ACCESS, old.access, settings.access),
            *_changed("per_user", PER_USER, old.per_user, settings.per_user),
        ),
        kept=tuple(kept),
    )


def change_of(old: ModelSpec, new: ModelSpec) -> ModelChange:
    """What is to be done about one model."""
    names = [field.name for field in fields(ModelSpec) if _differs(old, new, field.name)]
    needs_workers = any(_needs_workers(old, new, name) for name in names)
    keys = {option.field: key for key, option in MODEL.items()}
    return ModelChange(new, tuple(dotted(("models", new.name, keys[name])) for name in names), needs_workers)


def _needs_workers(old: ModelSpec, new: ModelSpec, name: str) -> bool:
    if name == "workers":
        # Their number is kept to by itself; but where nobody says how many threads each has, the fewest of them share
        # the cores.
        return old.workers.min != new.workers.min and new.threads is None
    return name not in WITHOUT_NEW_WORKERS


def _differs(old: object, new: object, name: str) -> bool:
    return bool(getattr(old, name) != getattr(new, name))


def _changed(table: str, options: Mapping[str, Option], old: object, new: object) -> list[str]:
    return [dotted((table, key)) for key, option in options.items() if _differs(old, new, option.field)]


def _key(name: str) -> str:
    """Of a field of Settings, as the file has it."""
    return next((f"daemon.{key}" for key, option in DAEMON.items() if option.field == name), name)
