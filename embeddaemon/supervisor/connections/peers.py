"""Who is at the other end of a Unix socket, as the kernel says. I/O.

The groups are those that the process had when it connected, supplementary ones included: no name is looked up.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
import sys
from collections.abc import Callable

from embeddaemon.config.settings import AccessSettings
from embeddaemon.errors import ConfigError
from embeddaemon.supervisor.connections.authorisation import Access, Peer

_IS_LINUX = sys.platform == "linux"
_SO_PEERGROUPS = 59
_MOST_GROUPS = 256
_LOCAL_PEERCRED = 1
_XUCRED = struct.Struct("=IIh2x16I")
"""macOS: version, uid, how many groups, the groups."""
_UCRED = struct.Struct("=iII")
"""Linux: pid, uid, gid."""


def peer_of(connection: socket.socket) -> Peer:
    """The process that connected. Raises OSError when the kernel does not say."""
    if _IS_LINUX:
        _, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return Peer(uid, frozenset((gid, *_supplementary(connection))))
    return _peer_on_macos(connection)


def access_of(settings: AccessSettings) -> Access:
    """Whom the settings let in, as numbers; the group of the socket file is not among them.

    Raises ConfigError for a name that this machine does not know.
    """
    users = frozenset(_number("users", name, lambda known: pwd.getpwnam(known).pw_uid) for name in settings.users)
    groups = frozenset(_number("groups", name, lambda known: grp.getgrnam(known).gr_gid) for name in settings.groups)
    return Access(os.geteuid(), users, groups)


def _number(key: str, name: str, find: Callable[[str], int]) -> int:
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return find(name)
    except KeyError:
        raise ConfigError(f"access.{key}: this machine knows no {key.removesuffix('s')} {name!r}") from None


def _supplementary(connection: socket.socket) -> tuple[int, ...]:
    """None of a process that is in more of them than a call of Python's can tell, or under a kernel before 4.13."""
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS * 4)
    except OSError:
        return ()
    return struct.unpack(f"={len(packed) // 4}I", packed)


def _peer_on_macos(connection: socket.socket) -> Peer:
    packed = connection.getsockopt(0, _LOCAL_PEERCRED, _XUCRED.size)
    _, uid, count, *groups = _XUCRED.unpack(packed)
    return Peer(uid, frozenset(groups[:count]))
