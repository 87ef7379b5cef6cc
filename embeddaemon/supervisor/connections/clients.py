"""All clients, wherever they come from: those of this machine (front.py), and those with keys (network.py). I/O."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq

from embeddaemon.config.settings import Settings
from embeddaemon.errors import ConfigError
from embeddaemon.supervisor.connections.authorisation import Access
from embeddaemon.supervisor.connections.descriptors import ENOUGH_FOR_NETWORK, raise_limit, shares
from embeddaemon.supervisor.connections.front import Arrived, Front, Left, Undelivered
from embeddaemon.supervisor.connections.listener import Listener
from embeddaemon.supervisor.connections.network import Network, open_network
from embeddaemon.supervisor.connections.peers import access_of
from embeddaemon.supervisor.connections.quotas import Room
from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)

HALF_RECEIVED_BYTES = 64 * 1024 * 1024
"""Of one user: what may be on its way to us. Eight of the largest bodies; the others wait in the kernel meanwhile."""

UNSENT_BYTES = 256 * 1024 * 1024
"""Of one user: answers that he does not take. Beyond it the connection that has one more is closed."""

ALL_USERS = 4
"""All users together may have so many times what one may; however many they are, each may have one frame."""


def open_clients(listener: Listener, context: zmq.Context[zmq.Socket[bytes]], settings: Settings) -> Clients:
    """Bind, listen, and let in whom the settings allow. The caller closes the listener. Raises ConfigError."""
    listening = listener.open()
    try:
        return _open(listener, listening, context, settings)
    except BaseException:
        listening.close()
        raise


def _open(
    listener: Listener, listening: socket.socket, context: zmq.Context[zmq.Socket[bytes]], settings: Settings
) -> Clients:
    limit, tcp_endpoint = raise_limit(), settings.access.tcp_endpoint
    most = shares(limit, has_network=tcp_endpoint is not None)
    if tcp_endpoint is not None and limit < ENOUGH_FOR_NETWORK:
        log.warning(fields("few_descriptors", endpoint=tcp_endpoint, limit=limit, enough=ENOUGH_FOR_NETWORK))
    _tell_of_others(listener)
    max_body_bytes = settings.limits.max_body_bytes
    receiving = Room(
        connections=most.local,
        connections_of_user=settings.per_user.connections,
        bytes_of_user=max(HALF_RECEIVED_BYTES, max_body_bytes),
        bytes_of_all=ALL_USERS * HALF_RECEIVED_BYTES,
    )
    sending = Room(
        connections=most.local,
        connections_of_user=None,
        bytes_of_user=UNSENT_BYTES,
        bytes_of_all=ALL_USERS * UNSENT_BYTES,
    )
    access = access_of(settings.access).with_group(listener.group)
    state_folder = None if settings.state_folder is None else Path(settings.state_folder)
    network = open_network(context, settings.access, settings.limits, state_folder, most.network)
    front = Front(access, receiving, sending, max_body_bytes, time.monotonic)
    front.listen(listening)
    return Clients(listener, front, receiving, network)


def _tell_of_others(listener: Listener) -> None:
    if (reason := listener.why_others_stay_out()) is not None:
        log.warning(fields("others_stay_out", endpoint=listener.endpoint, why=reason))


class Clients:
    """Takes what they ask, and sends what they get."""

    def __init__(self, listener: Listener, front: Front, room: Room, network: Network | None) -> None:
        self._listener = listener
        self._front = front
        self._room = room
        self._network = network
        self.listen = front.listen

    def register(self, poller: zmq.Poller) -> None:
        """Have the poller watch for them."""
        poller.register(self._front.fileno(), zmq.POLLIN)
        if self._network is not None:
            self._network.register(poller)

    def next_due(self) -> float:
        """When ``turn`` is to be called although nothing has happened."""
        network = float("inf") if self._network is None else self._network.next_due()
        return min(self._front.next_due(), network)

    def turn(self, ready: Mapping[Any, int], most: int) -> Iterator[Arrived | Left]:
        """What has happened; about ``most`` messages of each kind of client."""
        if self._front.fileno() in ready or time.monotonic() >= self._front.next_due():
            yield from self._front.turn(most)
        if self._network is not None:
            yield from self._network.turn(ready, most)

    def let_in(self, access: Access, connections_of_user: int | None) -> None:
        """These from now on, and whoever is in the group of the socket; nobody else stays."""
        self._listener.open_to_others(is_wanted=bool(access.users or access.groups))
        _tell_of_others(self._listener)
        self._room.allow(connections_of_user)
        self._front.let_in(access.with_group(self._listener.group))
        if self._network is not None:
            try:
                self._network.keep_allowed()
            except ConfigError as error:
                log.warning(fields("keys_not_read", error=error.message))

    def sweep(self) -> Iterator[Left]:
        """Look after what no event tells; now and then."""
        yield from self._front.sweep()

    def send(self, client: bytes, frames: Sequence[Any]) -> Undelivered | None:
        """One message to a client, without waiting. Why it did not go out; None when it did, or will."""
        if self._network is not None and self._network.has(client):
            return self._network.send(client, frames)
        return self._front.send(client, frames)

    def document(self) -> dict[str, Any]:
        """For ``status``: who is connected, and what was refused."""
        of_users = self._room.connections
        return {
            "connections": len(self._front),
            "limit": self._room.most,
            "of_users": {user: of_users[user] for user in sorted(of_users)},
            "counts": dict(self._front.counts),
            "network": None if self._network is None else self._network.document(),
        }

    def close(self) -> None:
        """Let the last answers go out, and close everything."""
        self._front.close()
        if self._network is not None:
            self._network.close()
