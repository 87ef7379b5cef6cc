"""One connection of a client of this machine: what came of it and what goes out on it. Never waits. I/O.

Who is let in, and when a connection ends, is in front.py.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from embeddaemon.supervisor.connections import zmtp
from embeddaemon.supervisor.connections.authorisation import Peer, User

_RECEIVE_BYTES = 65_536
_LARGE_RECEIVE_BYTES = 1 << 20
_MOST_BUFFERS = 64


@dataclass(slots=True, eq=False)
class Connection:
    """Its socket, and what is half received or half sent. Times are monotonic seconds."""

    name: bytes
    socket: socket.socket
    peer: Peer
    user: User
    inbound: zmtp.Inbound
    since: float
    progress_at: float
    """When something last came."""
    unsent: deque[memoryview] = field(default_factory=deque)
    unsent_bytes: int = 0
    unsent_messages: int = 0
    """At most: they are counted down when all of them have gone."""
    has_asked: bool = False
    events: int = selectors.EVENT_READ
    """What it is watched for."""
    is_closed: bool = False

    def receive(self, now: float) -> list[zmtp.Message | zmtp.Ping] | None:
        """What has come; None when the peer is gone. Raises Violation."""
        target, chunk = self.inbound.target(), b""
        try:
            if target is None:
                chunk = self.socket.recv(_RECEIVE_BYTES)
                count = len(chunk)
            else:
                count = self.socket.recv_into(target[:_LARGE_RECEIVE_BYTES])
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not count:
            return None
        self.progress_at = now
        return self.inbound.feed(chunk) if target is None else self.inbound.filled(count)

    def send(self, buffers: Sequence[bytes | memoryview]) -> int:
        """One message, as much of it as goes now; gives how many bytes are kept for later. Raises OSError."""
        sent = 0
        if not self.unsent:
            with contextlib.suppress(BlockingIOError):
                sent = self.socket.sendmsg(buffers)
        left = sum(len(each) for each in buffers) - sent
        if not left:
            return 0
        for each in buffers:
            view = memoryview(each)
            if sent < len(view):
                self.unsent.append(view[sent:])
            sent = max(0, sent - len(view))
        self.unsent_bytes += left
        self.unsent_messages += 1
        return left

    def flush(self) -> None:
        """Send on what was kept, as much as goes. Raises OSError."""
        while self.unsent:
            batch = [self.unsent[place] for place in range(min(len(self.unsent), _MOST_BUFFERS))]
            try:
                sent = self.socket.sendmsg(batch)
            except BlockingIOError:
                break
            self.unsent_bytes -= sent
            while self.unsent and sent >= len(self.unsent[0]):
                sent -= len(self.unsent.popleft())
            if sent:
                self.unsent[0] = self.unsent[0][sent:]
        if not self.unsent:
            self.unsent_messages = 0
