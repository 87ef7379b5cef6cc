"""``embeddaemon keys``: make, show and allow the keys of daemons and clients that talk over the network."""

from __future__ import annotations

import os
from pathlib import Path

import click
import zmq

from embeddaemon.cli.console import say
from embeddaemon.config import loading
from embeddaemon.config.flags import Flags
from embeddaemon.errors import ConfigError
from embeddaemon.protocol import keys

_FILE = click.Path(path_type=Path, dir_okay=False)
_CONFIG = click.option("--config", "config_file", type=_FILE, metavar="FILE", help="Configuration of the daemon.")


@click.group(name="keys", short_help="Make, show and allow keys for tcp:// endpoints.")
def keys_command() -> None:
    """Make, show and allow keys for tcp:// endpoints.

    A daemon and each of its clients has a key of its own: a secret file, and a public key to be told to the other.
    Without FILE the daemon's own is meant, where its configuration says that it is.
    """


@keys_command.command(name="new")
@click.argument("file", type=_FILE, required=False)
@_CONFIG
def new(file: Path | None, config_file: Path | None) -> None:
    """Make a key in FILE, for this user only, and print its public half."""
    public, secret = zmq.curve_keypair()
    path = _key_file(config_file) if file is None else file
    keys.write_pair(path, keys.KeyPair(public.decode(), secret.decode()))
    if file is None:
        _folder(config_file).mkdir(mode=0o700, parents=True, exist_ok=True)
    say(f"wrote {path}: keep it, and tell others the public key only")
    click.echo(public.decode())


@keys_command.command(name="show")
@click.argument("file", type=_FILE, required=False)
@_CONFIG
def show(file: Path | None, config_file: Path | None) -> None:
    """Print the public key of FILE; without it the daemon's, and on standard error who is allowed."""
    path = _key_file(config_file) if file is None else file
    click.echo(keys.read_pair(path).public)
    if file is None:
        for public, name in sorted(keys.allowed(_folder(config_file)).items(), key=lambda one: one[1]):
            say(f"allowed: {name} {public}")


@keys_command.command(name="allow")
@click.argument("name")
@click.argument("public")
@_CONFIG
def allow(name: str, public: str, config_file: Path | None) -> None:
    """Let the client with the key PUBLIC in from now on, and call it NAME in the log and in status."""
    keys.checked_public(public, "PUBLIC")
    folder = _folder(config_file)
    if (known := keys.allowed(folder).get(public)) is not None:
        raise ConfigError(f"this key is allowed already, as {known}")
    path = folder / f"{keys.checked_name(name)}{keys.PUBLIC_SUFFIX}"
    keys.write_public(path, public)
    say(f"wrote {path}; remove the file to refuse the key again")


def _key_file(config_file: Path | None) -> Path:
    return _place(config_file, "key_file", keys.DAEMON_KEY)


def _folder(config_file: Path | None) -> Path:
    return _place(config_file, "client_keys", keys.CLIENTS_FOLDER)


def _place(config_file: Path | None, key: str, name: str) -> Path:
    """Where the daemon with this configuration looks."""
    settings = loading.load_settings(config_file=config_file, environment=os.environ, flags=Flags())
    given = settings.access.key_file if key == "key_file" else settings.access.client_keys
    if given is not None:
        return Path(given)
    if settings.state_folder is None:
        raise ConfigError(f"access.{key} is not set, and there is no state folder: set it, or name a file")
    return Path(settings.state_folder) / name
