"""Clients that come over the network, with keys: libzmq's ROUTER with CURVE. I/O.

What libzmq does not bound, how many connections it takes and what they send, is watched in accepted.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq

from embeddaemon.config.settings import AccessSettings
from embeddaemon.errors import ConfigError
from embeddaemon.protocol import keys, wire
from embeddaemon.protocol.limits import MAX_HEADER_BYTES, Limits
from embeddaemon.supervisor.connections.accepted import Accepted
from embeddaemon.supervisor.connections.authorisation import user_of_key
from embeddaemon.supervisor.connections.front import Arrived, Undelivered
from embeddaemon.supervisor.connections.listener import set_options
from embeddaemon.supervisor.connections.notes import Notes
from embeddaemon.supervisor.connections.zap import KeyKeeper
from embeddaemon.supervisor.connections.zmtp import Message
from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)

_MARK = b"n"
"""Before the names of our clients. Those of the local ones begin with a zero byte."""

_HANDSHAKE_MS = 2000
_HEARTBEAT_MS = 10_000
_DEAD_AFTER_MS = 30_000
_FRAME_OVERHEAD_BYTES = 64
"""Of CURVE and framing around each frame, with room."""
_SLACK_BYTES = 8 * 1024 * 1024
"""In the kernel's buffers: received and not read by libzmq yet."""


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
    who = "as root or as the daemon's user"
    if _is_missing(key_file):
        raise ConfigError(
            f"{where}, and the daemon has none at {key_file}: make one with `embeddaemon keys new {key_file}`, {who}"
        )
    if _is_missing(folder):
        raise ConfigError(
            f"{where}, and nobody is allowed in {folder}: allow a client's with "
            f"`embeddaemon keys allow NAME PUBLIC --folder {folder}`, {who}"
        )
    pair = keys.read_pair(key_file)
    keys.allowed(folder)  # what is wrong with one of them is said now, and not when its owner comes
    endpoint = access.tcp_endpoint
    return Network(context, endpoint, pair=pair, folder=folder, limits=limits, most_connections=most_connections)


def _is_missing(path: Path) -> bool:
    """Whether there is nothing; what we may not look at is not missing, and whoever reads it says so."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _place(given: str | None, state_folder: Path | None, name: str, key: str) -> Path:
    if given is not None:
        return Path(given)
    if state_folder is None:
        raise ConfigError(f"access.{key} is not set, and the daemon has no state folder to look in: set it")
    return state_folder / name


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
        notes = Notes(time.monotonic)
        self._counts = notes.counts
        self._endpoint = endpoint
        self._folder = folder
        self._keeper = KeyKeeper(context, folder, self._counts)
        self._router = context.socket(zmq.ROUTER)
        set_options(self._router, max_message_bytes=2 * max(limits.max_body_bytes, MAX_HEADER_BYTES))
        self._router.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        self._router.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        self._router.setsockopt(zmq.HEARTBEAT_TIMEOUT, _DEAD_AFTER_MS)
        self._router.setsockopt(zmq.ZAP_DOMAIN, b"embeddaemon")
        self._router.setsockopt(zmq.CURVE_SERVER, 1)
        self._router.setsockopt(zmq.CURVE_PUBLICKEY, pair.public.encode())
        self._router.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())
        self._accepted = Accepted(
            context,
            self._router,
            endpoint,
            most=most_connections,
            most_unfinished_bytes=2 * limits.max_body_bytes + MAX_HEADER_BYTES + _SLACK_BYTES,
            notes=notes,
        )
        try:
            self._router.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"cannot listen at {endpoint}: {error}") from error
        log.info(fields("listening_for_keys", endpoint=endpoint, public=pair.public))

    def register(self, poller: zmq.Poller) -> None:
        """Have the poller watch for what ``turn`` handles."""
        for each in (self._router, self._keeper.socket, self._accepted.monitor):
            poller.register(each, zmq.POLLIN)

    def next_due(self) -> float:
        """When ``turn`` is to be called although nothing has happened."""
        return self._accepted.next_look

    def turn(self, ready: Mapping[Any, int], most: int) -> Iterator[Arrived]:
        """Everything that has happened; about ``most`` messages of it."""
        if self._accepted.monitor in ready:
            self._accepted.follow()
        if self._keeper.socket in ready:
            self._keeper.turn()
        if self._router in ready:
            yield from self._receive(most)
        self._accepted.look()

    def _receive(self, most: int) -> Iterator[Arrived]:
        for _ in range(most):
            frames = wire.receive(self._router)
            if frames is None:
                return
            client, header = frames[0].bytes, frames[min(1, len(frames) - 1)]
            size = sum(len(frame) + _FRAME_OVERHEAD_BYTES for frame in frames[1:])
            key, _, name = str(header.get("User-Id")).partition(" ")
            self._accepted.delivered(header.get(zmq.SRCFD), size, key)
            body = frames[2].buffer if len(frames) > 2 else None
            sizes = len(frames[1]) if len(frames) > 1 else 0, 0 if body is None else body.nbytes
            message = Message(header.bytes, body, *sizes, len(frames) - 1)
            yield Arrived(_MARK + client, user_of_key(name), message)

    def keep_allowed(self) -> None:
        """End the connections whose key is not allowed any more. Raises ConfigError when a file of one is wrong."""
        self._accepted.keep_only(frozenset(keys.allowed(self._folder)))

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
        return {"endpoint": self._endpoint, "connections": len(self._accepted), "counts": dict(self._counts)}

    def close(self) -> None:
        """Let the last answers go out, and close everything."""
        self._accepted.close()
        self._router.close()
        self._keeper.close()
