"""Where clients and workers connect: the folder, the lock, the socket files, and who may do what. I/O.

The clients' socket is bound and listened at here and accepted from in front.py: libzmq would delete whatever lies at
the path first, and with it a running daemon's socket. One that the service manager bound for us is taken as it is, and
stays. The workers' socket beside it is libzmq's, for processes of our own user only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import zmq

from embeddaemon.errors import ConfigError
from embeddaemon.protocol.endpoints import MAX_SOCKET_PATH_BYTES, socket_path
from embeddaemon.supervisor.connections.folder import prepare_folder

_BACKLOG = 512
_LINK_SUFFIX = ".w"
_MAX_LINK_BYTES = 1 << 31
"""One frame of a worker: the vectors of the largest request."""


class Listener:
    """The clients' socket file and its lock, from ``open`` to ``close``."""

    def __init__(self, endpoint: str, passed: socket.socket | None = None, *, is_open_to_others: bool = False) -> None:
        """``passed`` listens at that endpoint already, and is ours to close.

        ``is_open_to_others``: users outside the file's group may reach the socket too; whom of them we let in is
        decided when they connect.
        """
        self.endpoint = endpoint
        self._is_open_to_others = is_open_to_others
        self._passed = passed
        self._is_file_ours = self._is_folder_ours = False
        self._path = socket_path(endpoint)
        self._lock_path = self._path.with_name(self._path.name + ".lock")
        self._lock: int | None = None
        self._inode: int | None = None
        self._link_inode: int | None = None

    def open(self) -> socket.socket:
        """Bind and listen. The caller owns what it gets. Raises ConfigError when the place is not ours to take."""
        _check_length(self._path)
        self._prepare_folder()
        self._lock = _lock(self._lock_path, self.endpoint)
        return self._bind_clients()

    def _prepare_folder(self) -> None:
        self._is_folder_ours |= prepare_folder(self._path.parent, self._folder_mode)

    @property
    def _folder_mode(self) -> int:
        return 0o751 if self._is_open_to_others else 0o750

    @property
    def _file_mode(self) -> int:
        return 0o666 if self._is_open_to_others else 0o660

    def _bind_clients(self) -> socket.socket:
        # What was passed is used once; should its file go, the one that takes its place is our own.
        passed, self._passed = self._passed, None
        listening = _bind(self._path, self._file_mode) if passed is None else passed
        self._is_file_ours = passed is None
        self._inode = _inode_of(self._path)
        return listening

    @property
    def group(self) -> int | None:
        """Of the socket file: whoever is in it may connect. None when somebody deleted it."""
        try:
            return self._path.lstat().st_gid
        except OSError:
            return None

    def open_to_others(self, *, is_wanted: bool) -> None:
        """As in ``__init__``, from now on. What the service manager or somebody else made stays as it is."""
        self._is_open_to_others = is_wanted
        with contextlib.suppress(FileNotFoundError):
            if self._is_folder_ours:
                self._path.parent.chmod(self._folder_mode)
            if self._is_file_ours and _inode_of(self._path) == self._inode:
                self._path.chmod(self._file_mode)

    def why_others_stay_out(self) -> str | None:
        """What keeps users outside the group from the socket although they are to reach it; None: nothing of ours."""
        if self._is_open_to_others and self._path.exists():
            if not self._path.parent.stat().st_mode & stat.S_IXOTH:
                return f"nobody but its group gets into {self._path.parent}: chmod o+x {self._path.parent}"
            if not self._path.stat().st_mode & stat.S_IWOTH:
                return f"nobody but its group may use {self._path}: set SocketMode=0666 in its .socket unit"
        return None

    @property
    def link_endpoint(self) -> str:
        """Where our workers connect: beside the clients' socket, so that the same lock guards both."""
        return f"{self.endpoint}{_LINK_SUFFIX}"

    def open_link(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        """The workers' ROUTER, for processes of our own user only. After ``open``."""
        assert self._lock is not None, "the lock comes first"
        router = context.socket(zmq.ROUTER)
        set_options(router, max_message_bytes=_MAX_LINK_BYTES)
        self._bind_workers(router)
        return router

    def _bind_workers(self, router: zmq.Socket[bytes]) -> None:
        before = os.umask(0o177)
        try:
            router.bind(self.link_endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"the workers' socket {self.link_endpoint} cannot be bound: {error}") from error
        finally:
            os.umask(before)
        self._link_inode = _inode_of(self._link_path)

    def keep_in_place(self, listen: Callable[[socket.socket], None], workers: zmq.Socket[bytes]) -> list[str]:
        """Put back what somebody deleted, such as a cleaner of /tmp: without it nobody new finds us.

        Gives the names of what was put back. Raises ConfigError when another daemon has taken the place meanwhile.
        ``listen`` takes the new socket. The old listener of the workers stays with libzmq: told to unbind, it would
        remove the new file, some time later.
        """
        restored = []
        if self._lock is None or _inode_of(self._lock_path) != os.fstat(self._lock).st_ino:
            self._prepare_folder()
            before, self._lock = self._lock, _lock(self._lock_path, self.endpoint)
            if before is not None:
                os.close(before)
            restored.append(self._lock_path.name)
        if _inode_of(self._path) != self._inode:
            listen(self._bind_clients())
            restored.append(self._path.name)
        if _inode_of(self._link_path) != self._link_inode:
            self._bind_workers(workers)
            restored.append(self._link_path.name)
        return restored

    @property
    def _link_path(self) -> Path:
        return self._path.with_name(self._path.name + _LINK_SUFFIX)

    def close(self) -> None:
        """Remove the socket files, if they are still ours, and let go of the lock."""
        ours = ((self._link_path, self._link_inode), (self._path, self._inode if self._is_file_ours else None))
        for path, inode in ours:
            if inode is not None and _inode_of(path) == inode:
                path.unlink()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def set_options(router: zmq.Socket[bytes], *, max_message_bytes: int) -> None:
    """What every ROUTER of ours is told before it binds."""
    router.setsockopt(zmq.LINGER, 500)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    # Messages per peer. A client has a window far below this; one that stops reading loses answers, and it is counted.
    router.setsockopt(zmq.SNDHWM, 4096)
    router.setsockopt(zmq.RCVHWM, 4096)
    router.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)


def _inode_of(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None


def _check_length(path: Path) -> None:
    """The workers' socket has the longer name."""
    size, limit = len(os.fsencode(path)), MAX_SOCKET_PATH_BYTES - len(_LINK_SUFFIX)
    if size > limit:
        raise ConfigError(
            f"the socket's path {path} has {size} bytes, a daemon's may have {limit}: choose a shorter one"
        )


def _lock(path: Path, endpoint: str) -> int:
    """The lock that says that this path is taken. The file stays: without it two daemons could each lock their own."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"the lock file {path} cannot be opened: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise ConfigError(
            f"a daemon is listening at {endpoint} already (process {owner or 'unknown'}): "
            "stop it or choose another endpoint"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _bind(path: Path, mode: int) -> socket.socket:
    """A listening socket at the path. What a daemon that was killed left there is removed: we hold the lock."""
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    except FileNotFoundError:
        pass
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # The folder keeps strangers out until the file has its own permissions.
        listening.bind(str(path))
        path.chmod(mode)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen at {path}: {error}") from error
    return listening
