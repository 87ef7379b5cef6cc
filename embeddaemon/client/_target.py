"""Where a client connects, with which keys, and why it may not get there. Reads the environment and looks at files."""

from __future__ import annotations

import getpass
import grp
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embeddaemon.errors import ConfigError
from embeddaemon.protocol.endpoints import SYSTEM_SOCKET, checked_for_client, default_endpoint, socket_path
from embeddaemon.protocol.keys import KeyPair, checked_public, read_pair

SERVER_KEY_VARIABLE = "EMBEDDAEMON_SERVER_KEY"
KEY_FILE_VARIABLE = "EMBEDDAEMON_KEY_FILE"


@dataclass(frozen=True, slots=True)
class Keys:
    """What a connection over the network needs: the daemon's public key, and our own pair."""

    server: str
    pair: KeyPair


@dataclass(frozen=True, slots=True)
class Target:
    """One daemon. ``keys`` is None for a socket of this machine."""

    endpoint: str
    keys: Keys | None = None
    is_default: bool = False
    """Nobody named the endpoint: another daemon may have been meant."""

    @property
    def path(self) -> Path | None:
        """Of the socket; None over the network."""
        return None if self.keys is not None else socket_path(self.endpoint)


def target_of(
    endpoint: str | None, server_key: str | None = None, key_file: str | os.PathLike[str] | None = None
) -> Target:
    """What was given, else what the environment says. Raises ConfigError."""
    if endpoint is not None:
        chosen = checked_for_client(endpoint)
    else:
        # One that this user may not write to, or in a folder that he may not enter, is not there for him.
        exists = os.access(SYSTEM_SOCKET, os.W_OK)
        chosen = default_endpoint(os.environ, os.getuid(), system_socket_exists=exists)
    if not chosen.startswith("tcp://"):
        if server_key is not None or key_file is not None:
            raise ConfigError(f"endpoint {chosen!r} takes no keys: they are for tcp://")
        return Target(chosen, is_default=endpoint is None and not os.environ.get("EMBEDDAEMON_ENDPOINT"))
    return Target(chosen, _keys(chosen, os.environ, server_key, key_file))


def _keys(
    endpoint: str,
    environment: Mapping[str, str],
    server_key: str | None,
    key_file: str | os.PathLike[str] | None,
) -> Keys:
    server = server_key or environment.get(SERVER_KEY_VARIABLE)
    file = key_file or environment.get(KEY_FILE_VARIABLE)
    if not server:
        raise ConfigError(
            f"endpoint {endpoint!r} needs server_key= (or {SERVER_KEY_VARIABLE}): the daemon's public key, as "
            "`embeddaemon keys show` prints it there"
        )
    if not file:
        raise ConfigError(
            f"endpoint {endpoint!r} needs key_file= (or {KEY_FILE_VARIABLE}): your own key, made by "
            "`embeddaemon keys new FILE`, and allowed at the daemon by `embeddaemon keys allow NAME PUBLIC`"
        )
    return Keys(checked_public(server, "server_key"), read_pair(Path(file).expanduser()))


def reason_nobody_listens(path: Path) -> str | None:
    """Why a connection to a unix socket is refused; None when it is taken. Never waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:  # its backlog is full: somebody listens, and is busy
            return None
        except FileNotFoundError:
            return "there is no such socket"
        except ConnectionRefusedError:
            if not path.is_socket():
                return "what is there is no socket"
            return "the socket is left over, the process behind it is gone"
        except PermissionError:
            return "this user may not use the socket"
        except OSError as error:
            return str(error.strerror or error)
    return None


def advice_for(target: Target) -> str | None:
    """What a user can do who is kept from a socket by its permissions; None when that is not it."""
    path = SYSTEM_SOCKET if target.is_default else target.path
    group = None if path is None else _group_that_may(path)
    if group is None:
        return None
    whose = f"The system's daemon, at {path}," if target.is_default else "It"
    return (
        f"{whose} is for members of group {group!r}, and this process is in none of its groups: have "
        f"`usermod -aG {group} {_user()}` done, and log in again"
    )


def _group_that_may(path: Path) -> str | None:
    """The group whose members get to a socket that we do not get to."""
    try:
        gid = path.stat().st_gid
        if os.access(path, os.W_OK):
            return None
    except PermissionError:
        try:
            gid = path.parent.stat().st_gid
        except OSError:
            return None
    except OSError:
        return None
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
