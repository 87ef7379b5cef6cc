"""``serve``: settings from files, environment and flags; the supervisor runs with them until it is told to stop."""

from __future__ import annotations

import faulthandler
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from embeddaemon.cli.console import Exit
from embeddaemon.config.flags import Flags
from embeddaemon.config.given import mistake
from embeddaemon.config.loading import Loaded, load
from embeddaemon.config.options import LOG_LEVELS
from embeddaemon.config.settings import LogFormat, StartMethod
from embeddaemon.errors import ConfigError, EmbedDaemonError
from embeddaemon.telemetry import logs
from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)

DAEMON_MODULES = ("psutil", "safetensors", "tokenizers", "torch", "transformers")
"""What `embeddaemon[daemon]` adds to the client's install."""


@click.command(name="serve", short_help="Run the daemon in the foreground.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="Read this file alone.")
@click.option("--endpoint", metavar="URI", help="Listen here: ipc:///path or a path.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME=SOURCE",
    help="Serve a model; may be repeated. SOURCE: a folder, path:DIR, package:NAME or hub:ORG/NAME[@REVISION].",
)
@click.option("--default-model", metavar="NAME", help="Model of requests that name none. Default: the first.")
@click.option("--memory-budget", metavar="SIZE", help='What all processes together may take: "80%" or "8GiB".')
@click.option("--start-method", type=click.Choice([one.value for one in StartMethod]), help="How workers come to be.")
@click.option("--log-format", type=click.Choice([one.value for one in LogFormat]), help="For people or for machines.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="Least important lines that are shown.")
@click.option(
    "--exit-with-parent", is_flag=True, default=None, help="Stop at once when the process that started this one ends."
)
@click.option("--parent-pid", type=int, metavar="PID", help="Stop at once when that process ends.")
def serve_command(
    *,
    config_file: Path | None,
    endpoint: str | None,
    models: tuple[str, ...],
    default_model: str | None,
    memory_budget: str | None,
    start_method: str | None,
    log_format: str | None,
    log_level: str | None,
    exit_with_parent: bool | None,
    parent_pid: int | None,
) -> None:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C; accepted requests are finished first.

    Settings come from /etc/embeddaemon/embeddaemon.toml, then ~/.config/embeddaemon/embeddaemon.toml (or --config
    alone), then EMBEDDAEMON_* variables, then these flags; later ones win. Without any model the bundled one is served.
    Logs go to standard error.

    \b
    Examples:
      embeddaemon serve
      embeddaemon serve --model mini=/models/all-MiniLM-L6-v2 --memory-budget 2GiB
      embeddaemon serve --config ./embeddaemon.toml --log-format json
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    stop_when_told_as_pid_1()
    flags = Flags(
        models=models,
        endpoint=endpoint,
        default_model=default_model,
        memory_budget=memory_budget,
        start_method=start_method,
        log_format=log_format,
        log_level=log_level,
        exit_with_parent=exit_with_parent,
        parent_pid=parent_pid,
    )
    refuse_client_install()
    # As it is now: what is read again on SIGHUP is read with the environment and from the folder of the start.
    read = partial(load, config_file=config_file, environment=dict(os.environ), flags=flags, folder=Path.cwd())
    loaded = read()
    logs.setup(loaded.settings.log_format.value, loaded.settings.log_level)
    sys.exit(_run(loaded, read))


def stop_when_told_as_pid_1() -> None:
    """The kernel gives the first process of a container no signal that it does not handle, and it has no defaults.

    Until the loop takes the signals over there is nothing to finish.
    """
    if os.getpid() == 1:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: sys.exit(Exit.OK))


def refuse_client_install() -> None:
    """Raises ConfigError where only the client is installed."""
    missing = [name for name in DAEMON_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"this is a client's install ({', '.join(missing)} missing): to run the daemon, "
            "`pip install 'embeddaemon[daemon]'`"
        )


def _run(loaded: Loaded, read: Callable[[], Loaded]) -> int:
    # Here and not above: the base install has no supervisor's dependencies, and `serve --help` needs none.
    from embeddaemon.supervisor.changes.configuration import Source  # noqa: PLC0415
    from embeddaemon.supervisor.loop import run  # noqa: PLC0415
    from embeddaemon.supervisor.surroundings.service import service_of  # noqa: PLC0415

    # The service manager ends a loop that stands still by SIGABRT: where it stood is to be known.
    if sys.stderr is not None:  # closed by whoever started us
        faulthandler.enable()
    try:
        service = service_of(os.environ, os.getpid())
        passed_endpoint = None if service.passed is None else service.passed.endpoint
        settings = _at(loaded, passed_endpoint).settings
        source = Source(lambda: _at(read(), passed_endpoint), tuple(str(path) for path in loaded.files))
        return run(settings, service=service, source=source)
    except EmbedDaemonError:
        raise  # a place that is taken, a model that cannot fit: the message says all
    except Exception:
        # The process boundary. Nobody asks a daemon to do it again with --debug: the traceback is written now.
        log.exception(fields("supervisor_failed"))
        return Exit.FAILED


def _at(loaded: Loaded, passed_endpoint: str | None) -> Loaded:
    """With the endpoint at which the service manager listens for us, if it does.

    Raises ConfigError when that is elsewhere than where somebody told us to.
    """
    if passed_endpoint is None:
        return loaded
    given = loaded.given.get(("daemon", "endpoint"))
    if given is not None and loaded.settings.endpoint != passed_endpoint:
        raise mistake(
            ("daemon", "endpoint"),
            given,
            f"is not where the service manager listens for the daemon, {passed_endpoint}: leave the key out, or change "
            "ListenStream= in the .socket unit",
        )
    return replace(loaded, settings=replace(loaded.settings, endpoint=passed_endpoint))
