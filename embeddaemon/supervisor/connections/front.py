"""The clients of this machine: their connections on the daemon's Unix socket, from accept to close. I/O.

We accept ourselves instead of handing the socket to libzmq, because libzmq ends the process when it runs out of
descriptors here, holds whatever a peer sends of a message that it never ends, and does not say when a client leaves.
What is on the wire is ZeroMQ's protocol all the same (zmtp.py); who may come in is decided in authorisation.py, and
how many connections and bytes a user may have in quotas.py.
"""

from __future__ import annotations

import logging
import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from embeddaemon.supervisor.connections import zmtp
from embeddaemon.supervisor.connections.authorisation import Access, User
from embeddaemon.supervisor.connections.connection import Connection
from embeddaemon.supervisor.connections.door import Door, Visitor
from embeddaemon.supervisor.connections.notes import Notes
from embeddaemon.supervisor.connections.quotas import Room

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 2.0
"""A peer that is not through with it by then is closed: it takes two short messages."""

STALLED_SECONDS = 30.0
"""A message of which nothing more has come for so long is given up, with its connection."""

MOST_UNSENT_MESSAGES = 4096
"""Answers that one client has not taken; further ones are lost, and counted."""

_LINGER_SECONDS = 0.5


class Undelivered(Enum):
    """Why an answer did not go out."""

    GONE = "the client is gone"
    FULL = "the client does not read"


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message of a client."""

    client: bytes
    user: User
    message: zmtp.Message


@dataclass(frozen=True, slots=True)
class Left:
    """A client that has asked something before is gone."""

    client: bytes


class Front:
    """Everything that is connected to the daemon's own socket."""

    def __init__(
        self, access: Access, receiving: Room, sending: Room, max_body_bytes: int, clock: Callable[[], float]
    ) -> None:
        """``receiving`` counts connections and what is half received, ``sending`` what is not taken."""
        self._notes = Notes(clock)
        self.counts = self._notes.counts
        self._receiving = receiving
        self._sending = sending
        self._max_body_bytes = max_body_bytes
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._door = Door(access, receiving, self._selector, self._notes, clock)
        self._connections: dict[bytes, Connection] = {}
        self._ready: deque[tuple[Connection | None, int]] = deque()
        self._greeting: deque[Connection] = deque()
        self._in_message: dict[Connection, None] = {}
        self._blocked: dict[Connection, None] = {}
        self._is_room_free = False
        """Somebody's room to receive in has become free, and those who wait for some were not asked yet."""
        self._dismissed: deque[Left] = deque()
        """Closed by ``let_in``, and not told yet."""
        self._serial = 0

    def __len__(self) -> int:
        return len(self._connections)

    def fileno(self) -> int:
        """Readable when ``turn`` has something to do."""
        return self._selector.fileno()

    def listen(self, listening: socket.socket) -> None:
        """Accept here, and no longer where we did before."""
        self._door.listen(listening)

    def next_due(self) -> float:
        """When ``turn`` is to be called although nothing has happened."""
        greeting = self._greeting[0].since + HANDSHAKE_SECONDS if self._greeting else float("inf")
        is_due = self._dismissed or (self._is_room_free and self._blocked)
        return float("-inf") if is_due else min(greeting, self._door.open_again_at)

    def turn(self, most: int) -> Iterator[Arrived | Left]:
        """What has happened, about ``most`` messages of it; what is left over makes us readable again."""
        self._do_due(self._clock())
        while self._dismissed:
            yield self._dismissed.popleft()
        if not self._ready:
            self._ready += [(key.data, mask) for key, mask in self._selector.select(0)]
        seen = 0
        while self._ready and seen < most:
            connection, mask = self._ready.popleft()
            seen += 1
            if connection is None:
                for visitor in self._door.accept():
                    self._enter(visitor)
                continue
            for happened in self._serve(connection, mask):
                seen += 1
                yield happened
        if self._is_room_free:
            self._is_room_free = False
            yield from self._unblock()

    def _do_due(self, now: float) -> None:
        while self._greeting and now >= self._greeting[0].since + HANDSHAKE_SECONDS:
            late = self._greeting.popleft()
            if not late.is_closed and not late.inbound.is_ready:
                self._drop(late, "handshake_timeout")
        self._door.open_again(now)

    def sweep(self) -> list[Left]:
        """Give up on messages that do not go on; now and then."""
        since = self._clock() - STALLED_SECONDS
        stalled = [each for each in self._in_message if each.progress_at < since and not each.inbound.is_blocked]
        for connection in stalled:
            self._drop(connection, "message_stalled")
        return [Left(each.name) for each in stalled if each.has_asked]

    def let_in(self, access: Access) -> None:
        """These from now on; who is connected and not among them is closed, and learns why when he comes again."""
        self._door.access = access
        for connection in list(self._connections.values()):
            if access.user_of(connection.peer) is None:
                self._drop(connection, "no_longer_allowed")
                if connection.has_asked:
                    self._dismissed.append(Left(connection.name))

    def _enter(self, visitor: Visitor) -> None:
        accepted, user = visitor.socket, visitor.user
        self._serial += 1
        name, now = self._serial.to_bytes(8, "big"), self._clock()
        inbound = zmtp.Inbound(
            self._max_body_bytes,
            lambda size: self._receiving.hold(user.name, size),
            lambda size: self._release(user, size),
        )
        connection = Connection(name, accepted, visitor.peer, user, inbound, now, now)
        try:
            accepted.send(zmtp.WELCOME)
            self._selector.register(accepted, selectors.EVENT_READ, connection)
        except OSError:  # it has left already: somebody who only looked if we are there
            accepted.close()
            return
        self._receiving.came(user.name)
        self._connections[name] = connection
        self._greeting.append(connection)
        self.counts["accepted"] += 1

    def _release(self, user: User, size: int) -> None:
        self._receiving.release(user.name, size)
        self._is_room_free = True

    def _serve(self, connection: Connection, mask: int) -> Iterator[Arrived | Left]:
        if connection.is_closed:
            return
        if mask & selectors.EVENT_WRITE and not self._flush(connection):
            yield from self._left(connection)
            return
        if not mask & selectors.EVENT_READ:
            return
        try:
            items = connection.receive(self._clock())
        except zmtp.Violation as error:
            self._notes.note("protocol_violation", user=connection.user.name, error=str(error))
            items = None
        if items is None:
            yield from self._left(connection)
            return
        yield from self._hand_on(connection, items)

    def _left(self, connection: Connection) -> Iterator[Left]:
        self._close(connection)
        if connection.has_asked:
            yield Left(connection.name)

    def _hand_on(self, connection: Connection, items: Sequence[zmtp.Message | zmtp.Ping]) -> Iterator[Arrived | Left]:
        inbound = connection.inbound
        if inbound.is_in_message:
            self._in_message[connection] = None
        else:
            self._in_message.pop(connection, None)
        if inbound.is_blocked:
            self._blocked[connection] = None
            self._watch(connection)
        for item in items:
            if isinstance(item, zmtp.Ping):
                self._write(connection, [memoryview(item.answer)])
                continue
            connection.has_asked = True
            yield Arrived(connection.name, connection.user, item)

    def _unblock(self) -> Iterator[Arrived | Left]:
        """Those go on that waited for room to receive in; one that finds none waits again."""
        for connection in list(self._blocked):
            del self._blocked[connection]
            try:
                items = connection.inbound.feed(b"")
            except zmtp.Violation:
                yield from self._left(connection)
                continue
            self._watch(connection)
            yield from self._hand_on(connection, items)

    def send(self, client: bytes, frames: Sequence[Any]) -> Undelivered | None:
        """One message to a client, as much of it as goes now; the rest when it reads on."""
        connection = self._connections.get(client)
        if connection is None:
            return Undelivered.GONE
        if connection.unsent_messages >= MOST_UNSENT_MESSAGES:
            return Undelivered.FULL
        views = [memoryview(getattr(frame, "buffer", frame)).cast("B") for frame in frames]
        self._write(connection, zmtp.frames_out(views))
        return Undelivered.GONE if connection.is_closed else None

    def _write(self, connection: Connection, buffers: Sequence[bytes | memoryview]) -> None:
        try:
            left = connection.send(buffers)
        except OSError:
            self._close(connection)
            return
        if left and not self._sending.hold(connection.user.name, left):
            connection.unsent_bytes -= left
            self._drop(connection, "does_not_read")
            return
        self._watch(connection)

    def _flush(self, connection: Connection) -> bool:
        """Send on what could not go at once. False: the peer is gone."""
        before = connection.unsent_bytes
        try:
            connection.flush()
        except OSError:
            return False
        finally:
            if connection.unsent_bytes < before:
                self._sending.release(connection.user.name, before - connection.unsent_bytes)
        self._watch(connection)
        return True

    def _watch(self, connection: Connection) -> None:
        """For what there is to do: read unless it is blocked, write if something is unsent."""
        if connection.is_closed:
            return
        reading = 0 if connection in self._blocked else selectors.EVENT_READ
        events = reading | (selectors.EVENT_WRITE if connection.unsent else 0)
        if events == connection.events:
            return
        if not connection.events:
            self._selector.register(connection.socket, events, connection)
        elif not events:
            self._selector.unregister(connection.socket)
        else:
            self._selector.modify(connection.socket, events, connection)
        connection.events = events

    def _drop(self, connection: Connection, why: str) -> None:
        self._notes.note(why, user=connection.user.name, client=connection.name.hex())
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        if connection.is_closed:
            return
        connection.is_closed = True
        if connection.events:
            self._selector.unregister(connection.socket)
        connection.socket.close()
        user = connection.user.name
        self._receiving.went(user)
        if connection.inbound.held_bytes:
            self._release(connection.user, connection.inbound.held_bytes)
        if connection.unsent_bytes:
            self._sending.release(user, connection.unsent_bytes)
        connection.unsent.clear()
        del self._connections[connection.name]
        self._in_message.pop(connection, None)
        self._blocked.pop(connection, None)

    def close(self) -> None:
        """Let the last answers go out, for a short while, and close everything."""
        self._door.close()
        until = self._clock() + _LINGER_SECONDS
        for connection in list(self._connections.values()):
            if connection.unsent:
                connection.socket.settimeout(max(0.001, until - self._clock()))
                self._flush(connection)
            self._close(connection)
        self._selector.close()
