"""What the commands that talk to a daemon share: where it is, and for how long they wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_TIMEOUT_SECONDS = 60.0
"""Longer than the client's own: the first request of a person's day may load the model."""


def endpoint_option(command: F) -> F:
    """``--endpoint``."""
    return click.option(
        "--endpoint",
        metavar="URI",
        help="Where the daemon listens, a path. Default: EMBEDDAEMON_ENDPOINT, the system's daemon, your own.",
    )(command)


def timeout_option(default_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> Callable[[F], F]:
    """``--timeout``."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=default_seconds,
        show_default=True,
        metavar="SECONDS",
        help="Give up after so long without an answer.",
    )
