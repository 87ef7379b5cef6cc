"""``Client``: the synchronous client. One connection per thread, opened when the thread first asks something.

A forked child opens connections of its own and never touches its parent's.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from collections.abc import Generator
from types import TracebackType
from typing import Self

import zmq

from embeddaemon.client._actions import Patience
from embeddaemon.client._connection import ClientClosed, Connection
from embeddaemon.client._requests import Pieces, call_for, wait_seconds
from embeddaemon.client._target import Target, target_of
from embeddaemon.client._window import Answered
from embeddaemon.client._wire import DealerSocket
from embeddaemon.client.encoding import SentenceTransformerMethods


class _Process:
    """What a client holds in one process: the context, and a connection per thread."""

    def __init__(self, target: Target, patience: Patience) -> None:
        self._target = target
        self._patience = patience
        self._context: zmq.Context[DealerSocket] = zmq.Context()
        self._bell, self._rope = socket.socketpair()
        self._of_thread = threading.local()
        self._guard = threading.Lock()
        self._connections: set[Connection] = set()
        self._is_closed = False

    def connection(self) -> Connection:
        """The calling thread's."""
        connection: Connection | None = getattr(self._of_thread, "connection", None)
        return self._connect() if connection is None or connection.is_closed else connection

    def _connect(self) -> Connection:
        with self._guard:
            if self._is_closed:
                raise ClientClosed
            connection = Connection(self._context, self._target, self._patience, self._bell)
            self._connections.add(connection)
        self._of_thread.connection = connection
        self._of_thread.end = end = _ThreadEnd()
        weakref.finalize(end, _retire, self._connections, connection, os.getpid()).atexit = False
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
    """A thread has ended: so does its connection. In a forked child the parent's threads only seem to have ended."""
    if os.getpid() == pid and connection in connections:
        connections.discard(connection)
        connection.close()


_OF_PARENTS: list[_Process] = []
"""Kept for ever, so that no destructor in a child works on a parent's sockets."""

_CLIENTS: weakref.WeakSet[Client] = weakref.WeakSet()


class Client(SentenceTransformerMethods):
    """Asks the daemon for embeddings. May be used by several threads at once, and after a fork.

        with Client() as client:
            vectors = client.embed(["first text", "second"])

    ``endpoint`` is None for $EMBEDDAEMON_ENDPOINT, else the system's daemon, else the user's own. ``timeout``, in
    seconds, bounds the wait for every answer. Nothing is sent before the first call; the daemon may come, go and come
    back meanwhile. Over the network (``tcp://``) ``server_key`` is the daemon's public key and ``key_file`` our own,
    else $EMBEDDAEMON_SERVER_KEY and $EMBEDDAEMON_KEY_FILE. Raises ConfigError for an endpoint or keys that cannot be.
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

    def _answers(
        self, pieces: Pieces, timeout: float | None, *, bounds_piece: bool = False
    ) -> Generator[Answered, None, None]:
        call = call_for(timeout, self.timeout, bounds_piece=bounds_piece, now=time.monotonic())
        return self._process.connection().answers(pieces, call)

    def close(self) -> None:
        """Close every thread's connection. Calls that wait in other threads end with ClientClosed."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _begin_in_child(self) -> None:
        self._process.abandon()
        self._process = _Process(self._target, self._patience)


def _after_fork_in_child() -> None:
    for client in list(_CLIENTS):
        client._begin_in_child()  # noqa: SLF001 - this module's own hook


os.register_at_fork(after_in_child=_after_fork_in_child)
