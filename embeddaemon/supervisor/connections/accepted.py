"""The connections that libzmq has accepted from the network: how many there are, and what they sent and never end. I/O.

libzmq bounds one frame of a message, not how many come before the last one. So we compare, for each connection, what
the kernel received of it with what we were handed: a peer that keeps the end of its message to itself is cut off.

Nor does it bound how many connections it accepts. We hear of each, and end what is too many: to stop listening would
end all the others too, since the listener owns what it accepted, and libzmq would tell us of no end any more. Between
two looks of ours it takes a thousand at most: then its queue of what it has to tell is full, and it waits for us.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import parse_monitor_message

from embeddaemon.supervisor.connections.notes import Notes

LOOK_SECONDS = 0.1
"""Between two looks at what peers have sent without ending it; only while there are some."""

CLOSE_LOOK_SECONDS = 0.02
"""The same while one of them has sent much: libzmq takes some hundred megabytes a second from it meanwhile."""
_MUCH_BYTES = 4 * 1024 * 1024

_BYTES_RECEIVED = struct.Struct("=128xQ")
"""tcpi_bytes_received in struct tcp_info of Linux 4.1 and later."""
_EVENTS_PER_TURN = 512
_UNREAD_EVENTS = 1
"""On our side of libzmq's queue; on its own it has a thousand, which cannot be changed."""


@dataclass(slots=True)
class _Connection:
    """``socket`` is a duplicate of libzmq's, so that its number cannot become another's under us."""

    socket: socket.socket
    key: str | None = None
    """The public key that it came with; None before its first message."""
    delivered_bytes: int = 0

    def received_bytes(self) -> int:
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
        received: int = _BYTES_RECEIVED.unpack(info)[0] if len(info) == _BYTES_RECEIVED.size else 0
        return received


class Accepted:
    """The connections of one ROUTER that listens at one tcp endpoint, by libzmq's descriptors."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        router: zmq.Socket[bytes],
        endpoint: str,
        *,
        most: int,
        most_unfinished_bytes: int,
        notes: Notes,
    ) -> None:
        """Before the ROUTER is bound."""
        self._endpoint = endpoint
        self._port = int(endpoint.rpartition(":")[2])
        self._most = most
        self._most_unfinished_bytes = most_unfinished_bytes
        self._notes = notes
        self._router = router
        self._connections: dict[int, _Connection] = {}
        self.next_look = float("inf")
        """When ``look`` is due."""
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._slot = os.dup(self._null)
        """A descriptor that is always ours, for the moment in which one too many is ended."""
        place = f"inproc://accepted-{id(self):x}"
        router.monitor(place, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self.monitor = context.socket(zmq.PAIR)
        self.monitor.setsockopt(zmq.LINGER, 0)
        self.monitor.setsockopt(zmq.RCVHWM, _UNREAD_EVENTS)
        self.monitor.connect(place)

    def __len__(self) -> int:
        return len(self._connections)

    def follow(self) -> None:
        """Who came and who went; what is left over makes the monitor readable again."""
        for _ in range(_EVENTS_PER_TURN):
            try:
                event = parse_monitor_message(self.monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            descriptor = event["value"]
            if (gone := self._connections.pop(descriptor, None)) is not None:
                gone.socket.close()
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._came(descriptor)

    def _came(self, descriptor: int) -> None:
        """Watch it. One too many, or one that we have no descriptor left to watch with, is ended."""
        if len(self._connections) < self._most:
            try:
                duplicate = os.dup(descriptor)
            except OSError as error:
                if error.errno == errno.EBADF:  # it has gone already
                    return
            else:
                self._watch(descriptor, duplicate)
                return
        self._turn_away(descriptor)

    def _watch(self, descriptor: int, duplicate: int) -> None:
        connection = self._of_ours(duplicate)
        if connection is None:
            os.close(duplicate)
            return
        self._connections[descriptor] = _Connection(connection)
        self.next_look = min(self.next_look, time.monotonic() + LOOK_SECONDS)

    def _turn_away(self, descriptor: int) -> None:
        try:
            os.dup2(descriptor, self._slot, inheritable=False)
        except OSError:  # it has gone already
            return
        connection = self._of_ours(self._slot)
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.detach()
        os.dup2(self._null, self._slot, inheritable=False)
        self._notes.note("refused_connection", endpoint=self._endpoint, connections=len(self._connections))

    def _of_ours(self, descriptor: int) -> socket.socket | None:
        """None when the number is of something else by now: libzmq has closed what it told us of."""
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:
            return None
        try:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getsockname()[1] == self._port:
                return connection
        except OSError:
            pass
        connection.detach()
        return None

    def delivered(self, descriptor: int, size: int, key: str) -> None:
        """We were handed a message of so many bytes, framing included, that came on a connection with a key."""
        if (connection := self._connections.get(descriptor)) is not None:
            connection.delivered_bytes += size
            connection.key = key

    def look(self) -> None:
        """Cut off who has sent much more than was finished, when it is time to."""
        now = time.monotonic()
        if now < self.next_look:
            return
        most = max(map(self._check, list(self._connections.values())), default=0)
        pause = CLOSE_LOOK_SECONDS if most > _MUCH_BYTES else LOOK_SECONDS
        self.next_look = now + pause if self._connections else float("inf")

    def _check(self, connection: _Connection) -> int:
        """How many bytes of it are not finished."""
        if sys.platform != "linux":
            return 0
        try:
            unfinished_bytes = connection.received_bytes() - connection.delivered_bytes
            if unfinished_bytes > self._most_unfinished_bytes:
                self._notes.note("message_unfinished", endpoint=self._endpoint, bytes=unfinished_bytes)
                connection.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return 0  # it has gone; its event follows
        return unfinished_bytes

    def keep_only(self, keys: frozenset[str]) -> None:
        """End the connections of other keys, and those that have not said anything yet: they may come again."""
        for connection in self._connections.values():
            if connection.key not in keys:
                with contextlib.suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Before the ROUTER is closed."""
        self._router.disable_monitor()
        self.monitor.close()
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()
        os.close(self._slot)
        os.close(self._null)
