"""What people see: exit codes, errors, tables, JSON. Results go to standard output, all else to standard error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from enum import IntEnum

import click

from embeddaemon.errors import ConfigError, DaemonUnreachable, EmbedDaemonError, Refused


class Exit(IntEnum):
    """What a script can tell from the exit code. In ``--help`` and docs/configuration.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    HUNG_UP = 129
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


EXIT_CODES_HELP = """\b
Exit codes:
  0    done
  1    the request failed, or doctor found something broken
  2    wrong usage or wrong configuration
  3    no daemon answers at the endpoint
  4    refused for now (busy, backing off, draining): try again later
  130  interrupted
"""


def exit_code(error: EmbedDaemonError) -> Exit:
    """The exit code that an error ends with."""
    match error:
        case ConfigError():
            return Exit.USAGE
        case DaemonUnreachable():
            return Exit.UNREACHABLE
        case Refused() if error.retryable:
            return Exit.REFUSED
        case _:
            return Exit.FAILED


def show_error(error: EmbedDaemonError) -> None:
    """One line that says what happened, one per cause, and what may help."""
    say(f"error: {error.message}")
    for cause in error.cause:
        say(f"  caused by {cause}")
    if error.retry_after_ms:
        say(f"hint: try again in {error.retry_after_ms / 1000:.1f} s")


def say(line: str) -> None:
    """One line on standard error."""
    click.echo(line, err=True)


def put(text: str) -> None:
    """Result on standard output."""
    click.echo(text)


def put_json(value: object) -> None:
    """A result as JSON: indented, keys in their order."""
    put(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def put_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table with columns as wide as they must be; the first is flush left, so that `awk '{print $1}'` works."""
    table = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    for row in table:
        put("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def count(number: int | None) -> str:
    """A large number for a person to read: "22.7 M", "7.85 B"; "-" where it is not known."""
    if not number:
        return "-"
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def duration(seconds: float | None) -> str:
    """Seconds for a person to read: "0.4 s", "3 m 12 s", "2 h 5 m", "9 d 1 h"."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    for unit, size, below, below_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // below_size} {below}"
    return f"{whole // 60} m {whole % 60} s"
