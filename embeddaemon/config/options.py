"""Every key that a configuration may have: where its value goes, and of which kind it is. See docs/configuration.md."""

from __future__ import annotations

from dataclasses import dataclass

from embeddaemon.config import kinds
from embeddaemon.config.kinds import Kind
from embeddaemon.config.settings import HardLimits, LogFormat, StartMethod
from embeddaemon.protocol import endpoints

_DAY = 24 * 3600.0
_MIB = 1024 * 1024
_GIB = 1024 * _MIB

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Option:
    """One key of a table."""

    field: str
    """The field of Settings, Limits or ModelSpec that it sets."""
    kind: Kind


def _endpoint(value: object) -> str:
    return endpoints.checked(kinds.text(value))


def _tcp_endpoint(value: object) -> str:
    return endpoints.checked_tcp(kinds.text(value))


DAEMON: dict[str, Option] = {
    "endpoint": Option("endpoint", _endpoint),
    "default_model": Option("default_model", kinds.text),
    "memory_budget": Option("memory_budget", kinds.budget),
    "memory_reserve": Option("memory_reserve", kinds.size(0, 1024 * _GIB)),
    "gpu_memory_budget": Option("gpu_memory_budget", kinds.budget),
    "start_method": Option("start_method", kinds.member(StartMethod)),
    "hard_limits": Option("hard_limits", kinds.member(HardLimits)),
    "max_queued_requests": Option("max_queued_requests", kinds.integer(1, 1_000_000)),
    "max_queued_bytes": Option("max_queued_bytes", kinds.size(_MIB, 1024 * _GIB)),
    "cache_size": Option("cache_bytes", kinds.size(0, 1024 * _GIB)),
    # A deadline on the wire is at most seven days.
    "request_timeout": Option("request_timeout_seconds", kinds.duration(0.001, 7 * _DAY)),
    "drain_timeout": Option("drain_seconds", kinds.duration(0.0, _DAY)),
    "file_check_interval": Option("file_check_seconds", kinds.duration(0.0, 3600.0)),
    "load_timeout": Option("load_timeout_seconds", kinds.duration(1.0, _DAY)),
    "heartbeat_interval": Option("heartbeat_seconds", kinds.duration(0.05, 60.0)),
    "silent_timeout": Option("silent_after_seconds", kinds.duration(0.2, 3600.0)),
    "stall_timeout": Option("stall_seconds", kinds.duration(0.2, 3600.0)),
    "poison_memory": Option("poison_seconds", kinds.duration(0.0, 30 * _DAY)),
    "canary_interval": Option("canary_seconds", kinds.duration(0.0, _DAY)),
    "restart_limit": Option("restart_limit", kinds.integer(1, 1_000_000)),
    "restart_window": Option("restart_window_seconds", kinds.duration(1.0, _DAY)),
    "quarantine": Option("quarantine_seconds", kinds.duration(0.0, _DAY)),
    "log_format": Option("log_format", kinds.member(LogFormat)),
    "log_level": Option("log_level", kinds.chosen(*LOG_LEVELS)),
    "exit_with_parent": Option("exit_with_parent", kinds.boolean),
    # The largest that Linux can be told to give.
    "parent_pid": Option("parent_pid", kinds.integer(1, 1 << 22)),
}

LIMITS: dict[str, Option] = {
    "max_texts": Option("max_texts", kinds.integer(1, 1_000_000)),
    "max_text_bytes": Option("max_text_bytes", kinds.size(1, 256 * _MIB)),
    "max_body_bytes": Option("max_body_bytes", kinds.size(1024, 1024 * _MIB)),
    "max_ids": Option("max_ids", kinds.integer(1, 16_000_000)),
}

ACCESS: dict[str, Option] = {
    "users": Option("users", kinds.names),
    "groups": Option("groups", kinds.names),
    "tcp_endpoint": Option("tcp_endpoint", _tcp_endpoint),
    "key_file": Option("key_file", kinds.text),
    "client_keys": Option("client_keys", kinds.text),
}

PER_USER: dict[str, Option] = {
    "requests": Option("requests", kinds.integer(1, 1_000_000)),
    "bytes": Option("bytes", kinds.size(1024, 1024 * _GIB)),
    "loads_per_minute": Option("loads_per_minute", kinds.integer(0, 100_000)),
    "connections": Option("connections", kinds.integer(1, 1_000_000)),
}

MODEL: dict[str, Option] = {
    "source": Option("source", kinds.text),
    "sha256": Option("sha256", kinds.digests),
    "weights": Option("weights", kinds.chosen("copied", "sealed")),
    "device": Option("device", kinds.device),
    "precision": Option("precision", kinds.chosen("auto", "float32", "bfloat16", "float16", "int8")),
    "accept_inaccurate": Option("accept_inaccurate", kinds.boolean),
    "estimate": Option("estimate", kinds.estimate),
    "keep_alive": Option("keep_alive_seconds", kinds.keep_alive),
    "pinned": Option("pinned", kinds.boolean),
    "preload": Option("preload", kinds.boolean),
    "workers": Option("workers", kinds.workers),
    "threads": Option("threads", kinds.integer(1, 1024)),
    "token_budget": Option("token_budget", kinds.integer(1, 1 << 22)),
    "max_tokens": Option("max_tokens", kinds.integer(1, 1 << 20)),
    "pooling": Option("pooling", kinds.pooling),
    "normalize": Option("normalize", kinds.boolean),
    "prompts": Option("prompts", kinds.prompts),
    "default_task": Option("default_task", kinds.text),
    "dimensions": Option("dimensions", kinds.dimensions),
}

PLAIN_TABLES = {"daemon": DAEMON, "limits": LIMITS, "access": ACCESS, "per_user": PER_USER}
"""Those that hold keys and no further tables."""

TABLES = (*PLAIN_TABLES, "models")
