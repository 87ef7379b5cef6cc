"""The memory part of ``status`` and the processes of ``ps`` as tables. Takes the daemon's document, field by field.

A field that an older daemon does not send is shown as "-".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embeddaemon.cli.console import duration, put, put_table
from embeddaemon.governor.budget import format_bytes

Document = Mapping[str, Any]

_NORMAL = "normal"


def put_devices(memory: Document) -> None:
    """One line per device: its budget and where the limit comes from, what is leased, measured and left."""
    headings = ("DEVICE", "BUDGET", "LEASED", "MEASURED", "HEADROOM", "LIMIT")
    put_table(headings, [_device_row(device) for device in _devices(memory)])


def _devices(memory: Document) -> Sequence[Document]:
    devices: Sequence[Document] = memory.get("devices") or ([memory] if memory else [])
    return devices


def _device_row(device: Document) -> tuple[str, ...]:
    return (
        str(device.get("device", "-")),
        size(device.get("budget_bytes")),
        size(device.get("leased_bytes")),
        size(device.get("measured_bytes")),
        size(device.get("headroom_bytes")),
        f"{size(device.get('limit_bytes'))}, {device.get('limit_source', 'unknown')}",
    )


def put_pressure(memory: Document) -> None:
    """A line while memory is short; nothing while it is not."""
    pressure = memory.get("pressure") or {}
    level = pressure.get("level", _NORMAL)
    if level != _NORMAL:
        put(f"pressure  {level} for {duration(pressure.get('since_seconds'))}: {pressure.get('why')}")


def put_waiting(memory: Document) -> None:
    """A line for each model that waits for memory: for how much, and why it does not have it."""
    for model in memory.get("waiting") or []:
        since = model.get("since_seconds")
        how_long = "" if since is None else f" for {duration(since)}"
        put(f"waiting   {model.get('model')}{how_long}: {model.get('why')}")


def put_quarantined(status: Document) -> None:
    """A line for each model of which nothing is started for a while, and why."""
    for model in status.get("models") or []:
        if left := model.get("quarantine_seconds"):
            why = " ".join((model.get("error") or {}).get("cause") or []) or "it failed too often"
            put(f"quarantine  {model.get('name')} for another {duration(left)}: {why}")


def put_leases(status: Document) -> None:
    """Who was promised how much, what it holds and the most that it held; the supervisor has no lease."""
    memory = status.get("memory", {})
    rows = [_lease_row(lease) for lease in memory.get("leases", [])]
    if memory.get("supervisor_bytes"):
        rows.append(("supervisor", str(status.get("pid")), "-", "reserve", size(memory["supervisor_bytes"]), "-"))
    put_table(("MEMORY OF", "PID", "DECLARED", "LEASED", "MEASURED", "PEAK"), rows)


def _lease_row(lease: Document) -> tuple[str, ...]:
    return (
        str(lease.get("holder")),
        str(lease.get("pid") or "-"),
        size(lease.get("declared_bytes")),
        size(lease.get("bytes")),
        _measured(lease.get("resident_bytes")),
        _measured(lease.get("peak_bytes")),
    )


def put_processes(status: Document) -> None:
    """One line per process: what it is there for, what it does, and its host memory."""
    headings = ("KIND", "MODEL", "WORKER", "PID", "STATE", "HELD", "DECLARED", "LEASED", "MEASURED", "PEAK", "IDLE")
    put_table(headings, [_process_row(process) for process in processes_of(status)])


def processes_of(status: Document) -> list[Document]:
    """All of them, the supervisor first."""
    supervisor = {
        "kind": "supervisor",
        "pid": status.get("pid"),
        "state": "draining" if status.get("draining") else "running",
        "measured_bytes": status.get("memory", {}).get("supervisor_bytes"),
    }
    return [supervisor, *status.get("processes", [])]


def _process_row(process: Document) -> tuple[str, ...]:
    is_worker = process.get("worker") is not None
    return (
        str(process.get("kind", "-")).replace(" ", "-"),
        str(process.get("model") or "-"),
        str(process.get("worker") or "-"),
        str(process.get("pid") or "-"),
        str(process.get("state", "-")),
        str(process.get("in_flight", "-")) if is_worker else "-",
        size(process.get("declared_bytes")),
        size(process.get("leased_bytes")),
        _measured(process.get("measured_bytes")),
        _measured(process.get("peak_bytes")),
        duration(process.get("idle_seconds")) if is_worker else "-",
    )


def memory_lines(memory: Document) -> tuple[str, ...]:
    """Budgets, leases and what waits, a line each, for ``doctor``."""
    devices = [
        f"budget of {device.get('device')}: {size(device.get('budget_bytes'))}, "
        f"{size(device.get('leased_bytes'))} leased, {size(device.get('headroom_bytes'))} headroom; "
        f"limit {size(device.get('limit_bytes'))} ({device.get('limit_source')})"
        for device in _devices(memory)
    ]
    leases = [
        f"lease of {lease.get('holder')}: declared {size(lease.get('declared_bytes'))}, "
        f"leased {size(lease.get('bytes'))}, measured {_measured(lease.get('resident_bytes'))}, "
        f"peak {_measured(lease.get('peak_bytes'))}"
        for lease in memory.get("leases", [])
    ]
    limits = [f"hard limits of workers: {memory['hard_limits']}"] if memory.get("hard_limits") else []
    waiting = [f"{model.get('model')} waits for memory: {model.get('why')}" for model in memory.get("waiting") or []]
    return (*devices, *limits, *leases, *waiting)


def size(count: object) -> str:
    """Bytes for a person; "-" where they are not known."""
    return format_bytes(count) if isinstance(count, int) else "-"


def _measured(count: object) -> str:
    """The same of what no process holds nothing of: 0 says that it was not measured yet."""
    return size(count or None)
