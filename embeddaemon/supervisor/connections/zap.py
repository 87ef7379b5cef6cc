"""Answers libzmq when it asks whether a key may come in (ZAP, RFC 27). I/O.

Only sockets with a ZAP domain ask, which is the one for the network. What is allowed is read from the folder of public
keys each time: a key that is put there or removed counts from the next connection on.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import zmq
from zmq.utils import z85

from embeddaemon.errors import ConfigError
from embeddaemon.protocol import keys
from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)

_ENDPOINT = "inproc://zeromq.zap.01"
_KEY_BYTES = 32


class KeyKeeper:
    """The ZAP handler of a context. The user id that libzmq hands on with every message is ``KEY NAME``."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        folder: Path,
        counts: Counter[str],
    ) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(_ENDPOINT)
        self._folder = folder
        self._counts = counts

    def turn(self) -> None:
        """Answer everybody who asks."""
        while True:
            try:
                asked = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            version, request, _domain, address, _identity, mechanism, *credentials = asked
            status, text, user = self._decide(mechanism, credentials, address)
            self.socket.send_multipart([version, request, status, text, user, b""])

    def _decide(self, mechanism: bytes, credentials: list[bytes], address: bytes) -> tuple[bytes, bytes, bytes]:
        key = credentials[0] if credentials else b""
        if mechanism != b"CURVE" or len(key) != _KEY_BYTES:
            return self._refuse("a connection without a key", address)
        public = z85.encode(key).decode()
        try:
            name = keys.allowed(self._folder).get(public)
        except ConfigError as error:
            return self._refuse(error.message, address)
        if name is None:
            return self._refuse(f"public key {public} is not allowed here", address)
        self._counts["accepted"] += 1
        return b"200", b"", f"{public} {name}".encode()

    def _refuse(self, why: str, address: bytes) -> tuple[bytes, bytes, bytes]:
        self._counts["refused_key"] += 1
        log.warning(fields("refused_key", why=why, address=address.decode(errors="replace")))
        return b"400", why.encode()[:255], b""

    def close(self) -> None:
        self.socket.close()
