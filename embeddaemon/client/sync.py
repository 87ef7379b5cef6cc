"""``Client``: the synchronous client. One connection per thread, opened when the thread first asks something.

No connection carries two calls at once. A stream, which any thread may read, and a call in the middle of another one
of the same thread (in a signal handler, in a progress function) borrow a spare one. A forked child opens connections of
its own and never touches its parent's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import weakref
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import NoReturn, Self

import zmq

from embeddaemon.client._actions import Patience
from embeddaemon.client._connection import ClientClosed, Connection
from embeddaemon.client._requests import Pieces, call_for, wait_seconds
from embeddaemon.client._target import Target, target_of
from embeddaemon.client._window import Answered
from embeddaemon.client._wire import DealerSocket
from embeddaemon.client.encoding import SentenceTransformerMethods

_MOST_IDLE = 4
"""Spare connections that are kept for the next stream; more count against what the daemon allows one user."""


class _Process:
    """What a client holds in one process: the context, a connection per thread, and spare ones."""

    def __init__(self, target: Target, patience: Patience) -> None:
        self._target = target
        self._patience = patience
        self._context: zmq.Context[DealerSocket] = zmq.Context()
        self._bell, self._rope = socket.socketpair()
        self._of_thread = threading.local()
        # Reentrant: a signal handler may ask, or close the client, while its thread connects.
        self._guard = threading.RLock()
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        """Spare ones that nobody uses. Without the guard: the garbage collector gives some back at any moment."""
        self._pid = os.getpid()
        self._is_closed = False

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """For a call that the calling thread makes and ends: the thread's own, or a spare one while that is taken."""
        connection: Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None or connection.is_closed:
            connection = self._connect_thread()
        if connection.is_taken:
            with self.spare() as spare:
                yield spare
            return
        try:
            connection.is_taken = True
            yield connection
        finally:
            connection.is_taken = False

    @contextlib.contextmanager
    def spare(self) -> Iterator[Connection]:
        """For a call that may go from thread to thread, one that uses it at a time."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def _give_back(self, connection: Connection) -> None:
        if os.getpid() != self._pid:
            return  # it is the parent's
        if connection.is_closed or len(self._idle) >= _MOST_IDLE:
            _retire(self._connections, connection, self._pid)
        else:
            self._idle.append(connection)

    def _connect(self) -> Connection:
        with self._guard:
            if self._is_closed:
                raise ClientClosed
            connection = Connection(self._context, self._target, self._patience, self._bell)
            self._connections.add(connection)
        return connection

    def _connect_thread(self) -> Connection:
        connection = self._of_thread.connection = self._connect()
        self._of_thread.end = end = _ThreadEnd()
        weakref.finalize(end, _retire, self._connections, connection, self._pid).atexit = False
        return connection

    def close(self) -> None:
        with self._guard:
            if self._is_closed:
                return
            self._is_closed = True
            connections = list(self._connections)
            self._connections.clear()
        for connection in connections:
            connection.is_closed = True
        self._rope.send(b"!")  # wakes the threads that wait
        for connection in connections:
            connection.close()
        self._context.term()
        self._bell.close()
        self._rope.close()

    def abandon(self) -> None:
        """In a forked child: everything here is the parent's. Only the descriptors of the bell are ours to close."""
        for connection in self._connections:
            connection.is_closed = True
        self._bell.close()
        self._rope.close()
        _OF_PARENTS.append(self)


class _ThreadEnd:
    """Dropped by the interpreter when its thread ends."""


def _retire(connections: set[Connection], connection: Connection, pid: int) -> None:
    """Nobody needs it any more: its thread has ended. In a forked child the parent's threads only seem to have."""
    if os.getpid() == pid and connection in connections:
        connections.discard(connection)
        connection.close()


_OF_PARENTS: list[_Process] = []
"""Kept for ever, so that no destructor in a child works on a parent's sockets."""

_CLIENTS: weakref.WeakSet[Client] = weakref.WeakSet()


class Client(SentenceTransformerMethods):
    """Asks the daemon for embeddings. May be used by several threads at once, in signal handlers, and after a fork.

        with Client() as client:
            vectors = client.embed(["first text", "second"])

    ``endpoint`` is None for $EMBEDDAEMON_ENDPOINT, else the system's daemon, else the user's own. ``timeout``, in
    seconds, bounds the wait for every answer. Nothing is sent before the first call; the daemon may come, go and come
    back meanwhile. Over the network (``tcp://``) ``server_key`` is the daemon's public key and ``key_file`` our own,
    else $EMBEDDAEMON_SERVER_KEY and $EMBEDDAEMON_KEY_FILE. Raises ConfigError for an endpoint or keys that cannot be.

    A stream may be started in one thread and read in others, by one at a time; it has a connection of its own while it
    is open. A client cannot be pickled: each process makes one.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        timeout: float = 30.0,
        *,
        server_key: str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._target = target_of(endpoint, server_key, key_file)
        self.endpoint = self._target.endpoint
        self.timeout = wait_seconds(timeout)
        self._patience = patience or Patience()
        self._process = _Process(self._target, self._patience)
        _CLIENTS.add(self)

    def _now(self) -> float:
        return time.monotonic()

    def _answers(
        self, pieces: Pieces, timeout: float | None, *, bounds_piece: bool = False
    ) -> Generator[Answered, None, None]:
        call = call_for(timeout, self.timeout, bounds_piece=bounds_piece, now=time.monotonic())
        process = self._process
        with process.spare() if bounds_piece else process.connection() as connection:
            yield from connection.answers(pieces, call)

    def close(self) -> None:
        """Close every thread's connection. Calls that wait in other threads end with ClientClosed."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Client cannot be pickled or copied: make one in each process")

    def _begin_in_child(self) -> None:
        self._process.abandon()
        self._process = _Process(self._target, self._patience)


def _after_fork_in_child() -> None:
    for client in list(_CLIENTS):
        client._begin_in_child()  # noqa: SLF001 - this module's own hook


os.register_at_fork(after_in_child=_after_fork_in_child)
