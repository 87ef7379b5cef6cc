"""What ``status`` shows only where there is something: refusals, users, a configuration that is not in force.

Takes the daemon's document, field by field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embeddaemon.cli.console import duration, put
from embeddaemon.governor.budget import format_bytes

Document = Mapping[str, Any]

_REFUSED = "refused."
"""Before the code, in the names of counts."""


def put_refused(status: Document) -> None:
    """A line that says why requests were refused, and what of the connections."""
    counts: Document = status.get("counts") or {}
    refused = {name.removeprefix(_REFUSED): count for name, count in counts.items() if name.startswith(_REFUSED)}
    of_clients: Document = (status.get("clients") or {}).get("counts") or {}
    refused |= {name: count for name, count in of_clients.items() if name.startswith("refused")}
    if any(refused.values()):
        put(f"refused   {', '.join(f'{count} {name}' for name, count in sorted(refused.items()) if count)}")


def put_users(status: Document) -> None:
    """A line for each user that holds requests, or whom a quota kept from something."""
    for user in status.get("users") or []:
        parts = [
            f"{user.get('requests', 0)} request(s) in flight ({format_bytes(user.get('bytes', 0))})",
            f"{user.get('loads_last_minute', 0)} load(s) within a minute",
            f"{user.get('refused', 0)} refused by a quota",
        ]
        if user.get("requests") or user.get("refused"):
            put(f"user      {user.get('user')}: {', '.join(parts)}")


def put_config(status: Document) -> None:
    """A line while the configuration that was read last is not the one in force, and why."""
    config: Document = status.get("config") or {}
    error: Document | None = config.get("error")
    if error is not None:
        files = ", ".join(config.get("files") or []) or "what was configured"
        since = f"read again {duration(config.get('error_age_seconds'))} ago"
        put(f"config    {files} is wrong ({since}): running on the old one: {error.get('message')}")
    waiting = config.get("restart_needed") or {}
    if waiting:
        put(f"config    {', '.join(waiting)}: the new value waits for a restart")
