"""The program ``embeddaemon``: its commands, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import click

from embeddaemon.cli.console import EXIT_CODES_HELP, Exit, exit_code, say, show_error
from embeddaemon.errors import EmbedDaemonError

DEBUG_VARIABLE: Final = "EMBEDDAEMON_DEBUG"

# Command to module and the line that `--help` shows: nothing is imported for a command that is not used.
_COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("serve", "Run the daemon in the foreground."),
    "embed": ("embed", "Turn texts into vectors."),
    "status": ("daemon", "Show what the daemon is doing: models, requests, memory."),
    "ps": ("daemon", "List the daemon's workers."),
    "models": ("daemon", "List the configured models; show, inspect or calibrate one."),
    "health": ("health", "Say whether the daemon and its models are well; for probes."),
    "load": ("daemon", "Bring a model into memory."),
    "unload": ("daemon", "Give a model's memory back."),
    "reload": ("daemon", "Have the daemon read its configuration again."),
    "plan": ("plan", "Say whether models would fit, and what would be evicted."),
    "bench": ("bench", "Measure the running daemon on this machine."),
    "doctor": ("doctor", "Say what this machine has, and what is wrong with it."),
    "config": ("config", "Check or show the configuration."),
    "keys": ("keys", "Make, show and allow keys for tcp:// endpoints."),
    "install-service": ("install_service", "Write systemd units for this installation."),
}


class Program(click.Group):
    """The group of all commands. Ends every error in a line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order in which a newcomer needs them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command, imported now."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"embeddaemon.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command. The process boundary: nothing passes but click's own exits."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except EmbedDaemonError as error:
            _traceback_if_asked(ctx)
            show_error(error)
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            say("interrupted")
            ctx.exit(Exit.INTERRUPTED)
        except BrokenPipeError:
            _leave_broken_pipe()
            ctx.exit(Exit.BROKEN_PIPE)
        except OSError as error:
            _traceback_if_asked(ctx)
            where = f"{error.filename}: " if error.filename else ""
            say(f"error: {where}{error.strerror or error}")
            ctx.exit(Exit.FAILED)
        except Exception as error:  # noqa: BLE001 - a bug of ours still ends in a line and an exit code
            _traceback_if_asked(ctx)
            say(f"error: {type(error).__name__}: {error}")
            say("hint: this is a bug in embeddaemon; --debug (before the command) shows the traceback to report")
            ctx.exit(Exit.FAILED)


def _traceback_if_asked(ctx: click.Context) -> None:
    if ctx.params.get("debug") or os.environ.get(DEBUG_VARIABLE):
        traceback.print_exc()


def _leave_broken_pipe() -> None:
    # Whoever read our output is gone. The interpreter flushes at exit and would complain: let it flush into nothing.
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, sys.stdout.fileno())
    except (OSError, ValueError):  # standard output is no file, as in a test
        return
    finally:
        os.close(nothing)


def installed_version() -> str:
    """The version of this installation."""
    try:
        return version("embeddaemon")
    except PackageNotFoundError:
        return "unknown"


def _show_version(ctx: click.Context, _: click.Parameter, asked: object) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(f"embeddaemon {installed_version()}")
        ctx.exit()


@click.group(
    cls=Program,
    epilog=EXIT_CODES_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--debug", is_flag=True, help=f"Show tracebacks; also {DEBUG_VARIABLE}=1.")
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version."
)
def cli(*, debug: bool) -> None:
    """Turn texts into vectors with one daemon that owns the models of this machine.

    \b
    Try it:
      embeddaemon serve                        # in one terminal: the daemon, with the bundled model
      embeddaemon embed "a text" "another"     # in another: one line of JSON per text
      embeddaemon embed -i texts.txt -o vectors.npy
      embeddaemon status

    Every command has its own --help. docs/configuration.md lists all settings.
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    del debug  # read from the context where errors end


def main() -> None:
    """The entry point of the command ``embeddaemon``."""
    try:
        cli(prog_name="embeddaemon")
    except KeyboardInterrupt:  # before or after a command: while click parses, or while Python ends
        sys.exit(Exit.INTERRUPTED)
