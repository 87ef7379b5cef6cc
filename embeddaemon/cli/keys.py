"""``embeddaemon keys``: make, show, allow, list and remove the keys of daemons and clients that talk over the network.

As root they are written and read as the user whom their folder belongs to (acting.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import zmq

from embeddaemon.cli.acting import acting_as_owner_of
from embeddaemon.cli.console import say
from embeddaemon.config import loading
from embeddaemon.config.flags import Flags
from embeddaemon.config.state_folder import SYSTEM_STATE_FOLDER
from embeddaemon.errors import ConfigError
from embeddaemon.protocol import keys

_FILE = click.Path(path_type=Path, dir_okay=False)
_CONFIG = click.option("--config", "config_file", type=_FILE, metavar="FILE", help="Configuration of the daemon.")
_FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the daemon keeps the public keys that may come. Default: where its configuration says.",
)


@click.group(name="keys", short_help="Make, show and allow keys for tcp:// endpoints.")
def keys_command() -> None:
    """Make, show, allow, list and remove keys for tcp:// endpoints.

    A daemon and each of its clients has a key of its own: a secret file, and a public key to be told to the other.
    Without FILE and DIR those of the daemon are meant, where its configuration says: as root or as the user of the
    system's service, that service's; as any other user, the daemon's of that user.
    """


@keys_command.command(name="new")
@click.argument("file", type=_FILE, required=False)
@_CONFIG
def new(file: Path | None, config_file: Path | None) -> None:
    """Make a key in FILE, for its folder's owner only, and print its public half."""
    public, secret = zmq.curve_keypair()
    path = _key_file(config_file) if file is None else file
    with acting_as_owner_of(path):
        keys.write_pair(path, keys.KeyPair(public.decode(), secret.decode()))
    say(f"wrote {path}: keep it, and tell others the public key only")
    if file is None:
        folder = _folder(None, config_file)
        with acting_as_owner_of(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    click.echo(public.decode())


@keys_command.command(name="show")
@click.argument("file", type=_FILE, required=False)
@_CONFIG
def show(file: Path | None, config_file: Path | None) -> None:
    """Print the public key of FILE; without it the daemon's."""
    path = _key_file(config_file) if file is None else file
    with acting_as_owner_of(path):
        click.echo(keys.read_pair(path).public)


@keys_command.command(name="allow")
@click.argument("name")
@click.argument("public")
@_FOLDER
@_CONFIG
def allow(name: str, public: str, folder: Path | None, config_file: Path | None) -> None:
    """Let the client with the key PUBLIC in from now on, and call it NAME in the log and in status."""
    keys.checked_public(public, "PUBLIC")
    path = _folder(folder, config_file) / f"{keys.checked_name(name)}{keys.PUBLIC_SUFFIX}"
    with acting_as_owner_of(_kept_by(path.parent)):
        if (known := keys.allowed(path.parent).get(public)) is not None:
            raise ConfigError(f"this key is allowed already, as {known}")
        keys.write_public(path, public)
    say(f"wrote {path}; `embeddaemon keys remove {name}` refuses the key again")


@keys_command.command(name="list")
@_FOLDER
@_CONFIG
def list_(folder: Path | None, config_file: Path | None) -> None:
    """Print the keys that may come, with the name of each, in a line each."""
    place = _folder(folder, config_file)
    with acting_as_owner_of(_kept_by(place)):
        found = keys.allowed(place)
    for public, name in sorted(found.items(), key=lambda one: one[1]):
        click.echo(f"{public} {name}")
    if not found:
        say(f"nobody is allowed in {place}")


@keys_command.command(name="remove")
@click.argument("name")
@_FOLDER
@_CONFIG
def remove(name: str, folder: Path | None, config_file: Path | None) -> None:
    """Refuse the key that is called NAME, from its next connection on; a reload of the daemon ends open ones."""
    place = _folder(folder, config_file)
    with acting_as_owner_of(_kept_by(place)):
        path = keys.remove_public(place, name)
    say(
        f"removed {path}: the key is refused from its next connection on; `embeddaemon reload` ends those that are open"
    )


def _kept_by(folder: Path) -> Path:
    """What belongs to whoever keeps the keys: their folder, or, where that is root's or not there, the one above."""
    return folder if folder.exists() and folder.stat().st_uid != 0 else folder.absolute().parent


def _key_file(config_file: Path | None) -> Path:
    return _place(config_file, "key_file", keys.DAEMON_KEY)


def _folder(given: Path | None, config_file: Path | None) -> Path:
    return _place(config_file, "client_keys", keys.CLIENTS_FOLDER) if given is None else given


def _place(config_file: Path | None, key: str, name: str) -> Path:
    """Where the daemon with this configuration looks."""
    settings = loading.load_settings(config_file=config_file, environment=os.environ, flags=Flags())
    given = settings.access.key_file if key == "key_file" else settings.access.client_keys
    if given is not None:
        return Path(given)
    if settings.state_folder is None:
        raise ConfigError(f"access.{key} is not set, and there is no state folder: set it, or name a file")
    folder = Path(settings.state_folder)
    if folder != SYSTEM_STATE_FOLDER and "STATE_DIRECTORY" not in os.environ and SYSTEM_STATE_FOLDER.is_dir():
        say(f"note: this is {folder}, of a daemon of your own; for the system's service run it as root")
    return folder / name
