"""Clients that come over the network, with keys: libzmq's ROUTER with CURVE, and a watch over what its peers send. I/O.

libzmq bounds one frame of a message, not how many come before the last one. So we compare, for each connection, what
the kernel received of it with what we were handed: a peer that keeps the end of its message to itself is cut off.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from embeddaemon.config.settings import AccessSettings
from embeddaemon.errors import ConfigError
from embeddaemon.protocol import keys, wire
from embeddaemon.protocol.limits import MAX_HEADER_BYTES, Limits
from embeddaemon.supervisor.connections.authorisation import user_of_key
from embeddaemon.supervisor.connections.front import Arrived, Undelivered
from embeddaemon.supervisor.connections.listener import set_options
from embeddaemon.supervisor.connections.zap import KeyKeeper
from embeddaemon.supervisor.connections.zmtp import Message
from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""Between two looks at what peers have sent without ending it; only while there are some."""

CLOSE_LOOK_SECONDS = 0.02
"""The same while one of them has sent much: libzmq takes some hundred megabytes a second from it meanwhile."""
_MUCH_BYTES = 4 * 1024 * 1024

_MARK = b"n"
"""Before the names of our clients. Those of the local ones begin with a zero byte."""

_HANDSHAKE_MS = 2000
_HEARTBEAT_MS = 10_000
_DEAD_AFTER_MS = 30_000
_FRAME_OVERHEAD_BYTES = 64
"""Of CURVE and framing around each frame, with room."""
_SLACK_BYTES = 8 * 1024 * 1024
"""In the kernel's buffers: received and not read by libzmq yet."""
_BYTES_RECEIVED = struct.Struct("=128xQ")
"""tcpi_bytes_received in struct tcp_info of Linux 4.1 and later."""
_REBIND_PERCENT = 90


def open_network(
    context: zmq.Context[zmq.Socket[bytes]],
    access: AccessSettings,
    limits: Limits,
    state_folder: Path | None,
    most_connections: int,
) -> Network | None:
    """Listen at the tcp endpoint, if there is one. Raises ConfigError without a key and a folder of allowed ones."""
    if access.tcp_endpoint is None:
        return None
    key_file = _place(access.key_file, state_folder, keys.DAEMON_KEY, "key_file")
    folder = _place(access.client_keys, state_folder, keys.CLIENTS_FOLDER, "client_keys")
    where = f"access.tcp_endpoint is {access.tcp_endpoint}, which takes keys only"
    if not key_file.exists():
        raise ConfigError(
            f"{where}, and the daemon has none at {key_file}: make one with `embeddaemon keys new {key_file}`"
        )
    if not folder.is_dir():
        raise ConfigError(
            f"{where}, and nobody is allowed in {folder}: allow a client's with `embeddaemon keys allow NAME PUBLIC`"
        )
    pair = keys.read_pair(key_file)
    keys.allowed(folder)  # what is wrong with one of them is said now, and not when its owner comes
    most = max(1, most_connections // 2)
    return Network(context, access.tcp_endpoint, pair=pair, folder=folder, limits=limits, most_connections=most)


def _place(given: str | None, state_folder: Path | None, name: str, key: str) -> Path:
    if given is not None:
        return Path(given)
    if state_folder is None:
        raise ConfigError(f"access.{key} is not set, and the daemon has no state folder to look in: set it")
    return state_folder / name


@dataclass(slots=True)
class _Connection:
    """A connection of libzmq's; ``socket`` is a duplicate, so that its number cannot become another's under us."""

    socket: socket.socket
    delivered_bytes: int = 0

    def received_bytes(self) -> int:
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
        received: int = _BYTES_RECEIVED.unpack(info)[0] if len(info) == _BYTES_RECEIVED.size else 0
        return received


class Network:
    """The ROUTER for clients with keys."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        *,
        pair: keys.KeyPair,
        folder: Path,
        limits: Limits,
        most_connections: int,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._endpoint = endpoint
        self._most = most_connections
        self._most_unfinished_bytes = 2 * limits.max_body_bytes + MAX_HEADER_BYTES + _SLACK_BYTES
        self._connections: dict[int, _Connection] = {}
        self._next_look = float("inf")
        self._is_bound = False
        self._keeper = KeyKeeper(context, folder, lambda _name: len(self._connections) <= self._most, self.counts)
        self._router = context.socket(zmq.ROUTER)
        set_options(self._router, max_message_bytes=2 * max(limits.max_body_bytes, MAX_HEADER_BYTES))
        self._router.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        self._router.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        self._router.setsockopt(zmq.HEARTBEAT_TIMEOUT, _DEAD_AFTER_MS)
        self._router.setsockopt(zmq.ZAP_DOMAIN, b"embeddaemon")
        self._router.setsockopt(zmq.CURVE_SERVER, 1)
        self._router.setsockopt(zmq.CURVE_PUBLICKEY, pair.public.encode())
        self._router.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())
        self._monitor = self._router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        try:
            self._bind()
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"cannot listen at {endpoint}: {error}") from error
        log.info(fields("listening_for_keys", endpoint=endpoint, public=pair.public))

    def _bind(self) -> None:
        self._router.bind(self._endpoint)
        self._is_bound = True

    def register(self, poller: zmq.Poller) -> None:
        """Have the poller watch for what ``turn`` handles."""
        for each in (self._router, self._keeper.socket, self._monitor):
            poller.register(each, zmq.POLLIN)

    def next_due(self) -> float:
        """When ``turn`` is to be called although nothing has happened."""
        return self._next_look

    def turn(self, ready: Mapping[Any, int], most: int) -> Iterator[Arrived]:
        """Everything that has happened; about ``most`` messages of it."""
        if self._monitor in ready:
            self._follow()
        if self._keeper.socket in ready:
            self._keeper.turn()
        if self._router in ready:
            yield from self._receive(most)
        now = time.monotonic()
        if now >= self._next_look:
            most = self._cut_off()
            pause = CLOSE_LOOK_SECONDS if most > _MUCH_BYTES else LOOK_SECONDS
            self._next_look = now + pause if self._connections else float("inf")

    def _receive(self, most: int) -> Iterator[Arrived]:
        for _ in range(most):
            frames = wire.receive(self._router)
            if frames is None:
                return
            client, header = frames[0].bytes, frames[min(1, len(frames) - 1)]
            size = sum(len(frame) + _FRAME_OVERHEAD_BYTES for frame in frames[1:])
            if (connection := self._connections.get(header.get(zmq.SRCFD))) is not None:
                connection.delivered_bytes += size
            body = frames[2].buffer if len(frames) > 2 else None
            sizes = len(frames[1]) if len(frames) > 1 else 0, 0 if body is None else body.nbytes
            message = Message(header.bytes, body, *sizes, len(frames) - 1)
            yield Arrived(_MARK + client, user_of_key(str(header.get("User-Id"))), message)

    def _follow(self) -> None:
        """Who came and who went."""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())
            descriptor = event["value"]
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._came(descriptor)
            elif (gone := self._connections.pop(descriptor, None)) is not None:
                gone.socket.close()
        is_full = len(self._connections) >= self._most
        if self._is_bound and is_full:
            self.counts["accept_paused"] += 1
            log.warning(fields("accept_paused", endpoint=self._endpoint, connections=len(self._connections)))
            self._router.unbind(self._endpoint)
            self._is_bound = False
        elif not self._is_bound and len(self._connections) * 100 < self._most * _REBIND_PERCENT:
            self._bind()

    def _came(self, descriptor: int) -> None:
        try:
            duplicate = socket.socket(fileno=os.dup(descriptor))
        except OSError:  # it has gone already, or there is no descriptor left
            return
        self._connections[descriptor] = _Connection(duplicate)
        self._next_look = min(self._next_look, time.monotonic() + LOOK_SECONDS)

    def _cut_off(self) -> int:
        """End the connections that have sent much more than they have finished. Returns the most that one has."""
        most = 0
        if sys.platform != "linux":
            return most
        for connection in self._connections.values():
            try:
                unfinished_bytes = connection.received_bytes() - connection.delivered_bytes
                if unfinished_bytes > self._most_unfinished_bytes:
                    self.counts["message_unfinished"] += 1
                    log.warning(fields("message_unfinished", endpoint=self._endpoint, bytes=unfinished_bytes))
                    connection.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it has gone; its event follows
            most = max(most, unfinished_bytes)
        return most

    def has(self, client: bytes) -> bool:
        """Whether it came here. A peer may choose its name, so all of them are marked."""
        return client.startswith(_MARK)

    def send(self, client: bytes, frames: Sequence[Any]) -> Undelivered | None:
        """One message to a client, without waiting."""
        try:
            wire.send(self._router, [client.removeprefix(_MARK), *frames])
        except zmq.ZMQError as error:
            return Undelivered.GONE if error.errno == zmq.EHOSTUNREACH else Undelivered.FULL
        return None

    def document(self) -> dict[str, Any]:
        """For ``status``."""
        return {"endpoint": self._endpoint, "connections": len(self._connections), "counts": dict(self.counts)}

    def close(self) -> None:
        """Let the last answers go out, and close everything."""
        self._router.disable_monitor()
        self._monitor.close()
        self._router.close()
        self._keeper.close()
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()
