"""What the service manager (systemd) that started us gave us: a place to report to, and perhaps a socket. I/O.

    NOTIFY_SOCKET WATCHDOG_USEC WATCHDOG_PID   sd_notify(3): where to report, and how often to give a sign of life
    LISTEN_FDS LISTEN_PID LISTEN_FDNAMES       sd_listen_fds(3): the socket that it listens at for us

The environment is passed in; what we start ourselves gets none of these variables (living.py). Reports are in
notify.py, and what is done with the socket in listener.py.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from embeddaemon.errors import ConfigError
from embeddaemon.protocol.endpoints import checked

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START: the passed descriptors follow the standard ones."""

_FIX = "see ListenStream= in its .socket unit"


@dataclass(frozen=True, slots=True)
class Manager:
    """Who started us and wants to hear of us."""

    address: str
    """As sockets take it: a path, or a name in the abstract namespace, which begins with a zero byte."""
    watchdog_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PassedSocket:
    """A listening Unix stream socket that is bound already, and the endpoint that clients know it by."""

    endpoint: str
    socket: socket.socket


@dataclass(frozen=True, slots=True)
class Service:
    """Both, each of which may be missing."""

    manager: Manager | None = None
    passed: PassedSocket | None = None


NO_SERVICE = Service()
"""Started by hand, or by something that gives neither."""


def service_of(environment: Mapping[str, str], pid: int) -> Service:
    """What was given to this process, whose number is ``pid``. Raises ConfigError when it is of no use to us."""
    return Service(manager_of(environment, pid), passed_socket(environment, pid))


def manager_of(environment: Mapping[str, str], pid: int) -> Manager | None:
    """The service manager of this process, which has the number ``pid``; None without one. Raises ConfigError."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return None
    if address[0] not in "/@":
        raise ConfigError(f"environment NOTIFY_SOCKET: {address!r} is neither a path nor an abstract name (@...)")
    if address.startswith("@"):
        address = "\0" + address[1:]
    return Manager(address, _watchdog_seconds(environment, pid))


def _watchdog_seconds(environment: Mapping[str, str], pid: int) -> float | None:
    """What is meant for another process means nothing to us."""
    written = environment.get("WATCHDOG_USEC")
    if not written or environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    if not (written.isascii() and written.isdecimal() and int(written) > 0):
        raise ConfigError(f"environment WATCHDOG_USEC: {written!r} is not a number of microseconds above 0")
    return int(written) / 1_000_000


def passed_socket(
    environment: Mapping[str, str], pid: int, first_descriptor: int = FIRST_DESCRIPTOR
) -> PassedSocket | None:
    """The one that was passed to this process, whose number is ``pid``; None when none was. The caller owns it.

    Raises ConfigError for anything that is not exactly one listening Unix stream socket with a path.
    """
    if environment.get("LISTEN_PID") != str(pid):
        return None
    written = environment.get("LISTEN_FDS", "")
    if not (written.isascii() and written.isdecimal()):
        raise ConfigError(f"environment LISTEN_FDS: {written!r} is not a number of descriptors")
    count = int(written)
    if count == 0:
        return None
    if count > 1:
        names = environment.get("LISTEN_FDNAMES", "")
        raise ConfigError(
            f"the service manager passed {count} sockets ({names or 'without names'}), and the daemon takes one: {_FIX}"
        )
    return _checked(first_descriptor)


def _checked(descriptor: int) -> PassedSocket:
    try:
        passed = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(f"descriptor {descriptor}, passed by the service manager, is no socket: {error}") from error
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - the standard library's signature
    if (wrong := _what_is_wrong(passed)) is not None:
        passed.close()
        raise ConfigError(f"descriptor {descriptor}, passed by the service manager, {wrong}: {_FIX}")
    try:
        return PassedSocket(checked(passed.getsockname()), passed)
    except ConfigError:
        passed.close()
        raise


def _what_is_wrong(passed: socket.socket) -> str | None:
    if passed.family != socket.AF_UNIX:
        return "is no Unix socket"
    if passed.type != socket.SOCK_STREAM:
        return "is no stream socket"
    if not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "does not listen (Accept=yes is not for us)"
    if not isinstance(name := passed.getsockname(), str) or not name.startswith("/"):
        return "has no path: abstract sockets have no file permissions and are not used"
    return None
