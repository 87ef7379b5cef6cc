"""Connections that speak ZMTP badly, half, slowly, or not at all. Seeded."""

from __future__ import annotations

import contextlib
import random
import socket
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from embeddaemon.supervisor.connections import zmtp
from tests.support.fuzz_messages import hostile_message
from tests.support.raw_peer import READY, frame

_HANDSHAKE = zmtp.GREETING + READY
_MIB = 1 << 20


class HostilePeers:
    """Opens connections and keeps the last ``at_once`` of them open. Nobody waits for the daemon in here."""

    def __init__(self, path: Path, choose: random.Random, at_once: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._path = path
        self._choose = choose
        self._at_once = at_once
        self._open: deque[tuple[socket.socket, bytes]] = deque()
        """With what is still to be sent of each, byte by byte."""
        self._crowd: list[socket.socket] = []

    def connect(self) -> None:
        """One more; the oldest one goes when there are too many."""
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(0.05)
        try:
            peer.connect(str(self._path))
        except OSError as error:
            self.outcomes[type(error).__name__] += 1
            peer.close()
        else:
            kind = self._choose.choice(_KINDS)
            content = kind(self._choose)
            self.outcomes[kind.__name__.strip("_")] += 1
            self._open.append((peer, self._send(peer, content, is_slow=self._choose.random() < 0.2)))
        while len(self._open) > self._at_once:
            self._leave(*self._open.popleft())
        self._send_on()

    def crowd(self, size: int) -> None:
        """So many that are right and say nothing, in place of the last crowd: more than there are descriptors."""
        while self._crowd:
            self._crowd.pop().close()
        for _ in range(size):
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            peer.setblocking(False)
            self._crowd.append(peer)
            with contextlib.suppress(OSError):  # as many as the queue of the socket takes
                peer.connect(str(self._path))
                peer.send(_HANDSHAKE)
                self.outcomes["crowd"] += 1

    def _send(self, peer: socket.socket, content: bytes, *, is_slow: bool) -> bytes:
        at = self._choose.randint(0, min(len(content), 200)) if is_slow else len(content)
        with contextlib.suppress(OSError):  # it was closed, or nobody reads so much
            peer.sendall(content[:at])
        return content[at:]

    def _send_on(self) -> None:
        """One more byte from each slow one."""
        for place, (peer, rest) in enumerate(self._open):
            if rest:
                with contextlib.suppress(OSError):
                    peer.send(rest[:1])
                self._open[place] = (peer, rest[1:])

    def _leave(self, peer: socket.socket, rest: bytes) -> None:
        if self._choose.random() < 0.5:
            with contextlib.suppress(OSError):
                peer.send(rest[:10])
        peer.close()

    def close(self) -> None:
        """All of them leave."""
        self.crowd(0)
        while self._open:
            self._leave(*self._open.popleft())


def _silence(choose: random.Random) -> bytes:
    return b""


def _half_greeting(choose: random.Random) -> bytes:
    return zmtp.GREETING[: choose.randrange(len(zmtp.GREETING))]


def _noise(choose: random.Random) -> bytes:
    return choose.randbytes(choose.choice((1, 63, 64, 65, 5000)))


def _other_protocol(choose: random.Random) -> bytes:
    return choose.choice((b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00", b"SSH-2.0-x\r\n", b"\n" * 500))


def _wrong_greeting(choose: random.Random) -> bytes:
    greeting = bytearray(_HANDSHAKE)
    greeting[choose.randrange(64)] = choose.randrange(256)
    return bytes(greeting)


def _other_mechanism(choose: random.Random) -> bytes:
    mechanism = choose.choice((b"PLAIN", b"CURVE", b"GSSAPI", b"NULL\0NULL", b"\xff" * 20)).ljust(20, b"\0")
    return zmtp.GREETING[:12] + mechanism + zmtp.GREETING[32:] + READY


def _old_version(choose: random.Random) -> bytes:
    return choose.choice((b"\x01\x00\x02\x00a", b"\xff" + bytes(8) + b"\x7f\x01\x05" + bytes(60), b"\xff" * 64))


def _wrong_ready(choose: random.Random) -> bytes:
    commands = (
        zmtp.command(b"READY", b"\x0bSocket-Type\0\0\0\x03PUB"),
        zmtp.command(b"READY", b"\x0bSocket-Type\xff\xff\xff\xffDEALER"),
        zmtp.command(b"READY", b"\xffSocket"),
        zmtp.command(b"READY", b"" if choose.random() < 0.5 else choose.randbytes(60)),
        zmtp.command(b"ERROR", b"\x03no!"),
        b"\x06" + (choose.choice((0, 5000, 2**31, 2**63 - 1, 2**64 - 1))).to_bytes(8, "big") + b"\x05READY",
        b"\x04\x00",
        b"\x04\x01\xff",
        frame(b"too early"),
    )
    return zmtp.GREETING + choose.choice(commands)


def _commands(choose: random.Random) -> bytes:
    names = (b"PING", b"PONG", b"READY", b"SUBSCRIBE", b"CANCEL", b"", b"x" * 100)
    return _HANDSHAKE + b"".join(
        zmtp.command(choose.choice(names), choose.randbytes(choose.randrange(40))) for _ in range(choose.randint(1, 50))
    )


def _wrong_flags(choose: random.Random) -> bytes:
    return _HANDSHAKE + bytes((choose.randrange(256), 5)) + b"hello" * choose.randint(1, 100)


def _unfinished(choose: random.Random) -> bytes:
    """A message that goes on for ever: never the last frame."""
    part = frame(choose.randbytes(choose.choice((0, 10, 300, 60_000))), more=True)
    return _HANDSHAKE + part * choose.choice((1, 2, 10, 100))


def _half_frame(choose: random.Random) -> bytes:
    size = choose.choice((10, 300, 60_000, 8 * _MIB, 9 * _MIB, 2**31, 2**63, 2**64 - 1))
    announced = b"\x03" + size.to_bytes(8, "big")
    first = frame(b"header", more=True) if choose.random() < 0.5 else b""
    return _HANDSHAKE + first + announced + b"x" * choose.choice((0, 1, 5000))


def _messages(choose: random.Random) -> bytes:
    """Whole messages, hostile ones, and the last of them cut off."""
    content = _HANDSHAKE
    for _ in range(choose.randint(1, 5)):
        frames = hostile_message(choose)
        content += b"".join(frame(each, more=place < len(frames) - 1) for place, each in enumerate(frames))
    return content[: -choose.randint(1, 20)] if choose.random() < 0.5 else content


_KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    *(_silence, _half_greeting, _noise, _other_protocol, _wrong_greeting, _other_mechanism, _old_version),
    *(_wrong_ready, _commands, _wrong_flags, _unfinished, _half_frame, _messages),
)
