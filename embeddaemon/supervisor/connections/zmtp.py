"""ZMTP 3.x as the daemon speaks it with local clients: bytes to messages and back, bounded for each peer. Pure.

libzmq's own ROUTER keeps every frame of a message until its last one has come, however many that are, and no option of
it bounds them: one peer could fill our memory. Here a peer makes us hold one header and one body at most; everything
beyond is counted and thrown away as it comes. The mechanism is NULL: who the peer is, the kernel says (front.py).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embeddaemon.protocol.limits import MAX_HEADER_BYTES

MAX_FRAMES = 64
"""Of one message: two is right, a few more are answered as malformed, beyond that nobody speaks our protocol."""

MAX_COMMAND_BYTES = 4096
"""READY with an identity of 255 bytes and some properties; PING."""

SMALL_BYTES = 8192
"""A frame up to this is taken out of what was received; a larger one gets memory of its own, which is asked for."""

_LAZY_BYTES = 256 * 1024
_GREETING_BYTES = 64
_SIGNATURE = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f"
_MECHANISM = b"NULL".ljust(20, b"\0")
_MORE, _LONG, _COMMAND = 1, 2, 4
_SOCKET_TYPES = (b"DEALER", b"REQ", b"ROUTER")
"""What a ROUTER may be connected with."""

GREETING = _SIGNATURE + b"\x03\x01" + _MECHANISM + b"\0" * 32


class Violation(Exception):
    """The peer does not speak ZMTP 3 as we do; the text says what it did."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a peer. What was beyond its limit is None: it was thrown away as it came, and counted."""

    header: bytes | memoryview | None
    body: bytes | memoryview | None
    header_bytes: int
    body_bytes: int
    frames: int


@dataclass(frozen=True, slots=True)
class Ping:
    """The peer asks for a sign of life; ``answer`` is it."""

    answer: bytes


def command(name: bytes, payload: bytes) -> bytes:
    """A command frame."""
    size = 1 + len(name) + len(payload)
    assert size < 256, "a command of ours that is long: bug"
    return bytes((_COMMAND, size, len(name))) + name + payload


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


WELCOME = GREETING + command(b"READY", _property(b"Socket-Type", b"ROUTER") + _property(b"Identity", b""))
"""What a peer that may talk is sent first."""


def refusal(status: str) -> bytes:
    """What a peer that may not talk is sent instead: a status of ZAP, 400 for never, 300 for not now."""
    return GREETING + command(b"ERROR", bytes((len(status),)) + status.encode())


def frames_out(frames: Sequence[memoryview]) -> list[bytes | memoryview]:
    """One message as buffers to be written one after the other."""
    buffers: list[bytes | memoryview] = []
    last = len(frames) - 1
    for place, frame in enumerate(frames):
        more = 0 if place == last else _MORE
        size = frame.nbytes
        head = bytes((more, size)) if size < 256 else bytes((more | _LONG,)) + size.to_bytes(8, "big")
        buffers += (head, frame)
    return buffers


class Inbound:
    """What one peer sends, from its greeting on.

    ``hold`` is asked for the bytes of a large frame before it is received, and ``release`` is told when it is handed
    on. If ``hold`` says no, nothing goes on until ``feed(b"")``.
    """

    def __init__(self, max_body_bytes: int, hold: Callable[[int], bool], release: Callable[[int], None]) -> None:
        self.is_ready = False
        """Whether the handshake is through."""
        self.held_bytes = 0
        """Asked for and not handed on yet."""
        self.is_blocked = False
        self._limits = (MAX_HEADER_BYTES, max_body_bytes)
        self._hold = hold
        self._release = release
        self._rest = b""
        self._is_greeted = False
        self._large: memoryview | None = None
        self._filled = 0
        self._skip = 0
        self._more = False
        self._frames: list[bytes | memoryview | None] = []
        self._sizes: list[int] = []
        self._count = 0

    @property
    def is_in_message(self) -> bool:
        """Whether a message has begun that has not ended."""
        return bool(self._count or self._skip or self._rest or self._large is not None)

    def target(self) -> memoryview | None:
        """Where the next bytes belong, when a large frame is being received; then say ``filled``."""
        return None if self._large is None else self._large[self._filled :]

    def filled(self, count: int) -> list[Message | Ping]:
        """So many bytes were written to ``target``."""
        assert self._large is not None, "nothing to fill: bug"
        self._filled += count
        items: list[Message | Ping] = []
        if self._filled == len(self._large):
            self._end_large(items)
        return items

    def feed(self, chunk: bytes) -> list[Message | Ping]:
        """The next bytes; what they complete. Raises Violation."""
        received = self._rest + chunk if self._rest else chunk
        self._rest, self.is_blocked = b"", False
        items: list[Message | Ping] = []
        at = 0
        if not self._is_greeted:
            if len(received) < _GREETING_BYTES:
                _check_greeting(received)
                self._rest = received
                return items
            _check_greeting(received)
            self._is_greeted, at = True, _GREETING_BYTES
        size = len(received)
        while at < size:
            before, at = at, self._step(received, at, items)
            if at == before:
                self._rest = received[at:]
                break
        return items

    def _step(self, received: bytes, at: int, items: list[Message | Ping]) -> int:
        """One frame, or the part of it that is there; where the next begins. The same place: more is needed."""
        if self._skip:
            skipped = min(self._skip, len(received) - at)
            self._skip -= skipped
            if not self._skip:
                self._end_frame(None, items)
            return at + skipped
        flags = received[at]
        if flags & ~(_MORE | _LONG | _COMMAND):
            raise Violation(f"a frame with flags {flags:#x}")
        begin = at + (9 if flags & _LONG else 2)
        if len(received) < begin:
            return at
        size = int.from_bytes(received[at + 1 : begin], "big")
        if flags & _COMMAND or not self.is_ready:
            return self._take_command(received, at, begin, size, items)
        self._more = bool(flags & _MORE)
        return self._take_frame(received, at, begin, size, items)

    def _take_frame(self, received: bytes, at: int, begin: int, size: int, items: list[Message | Ping]) -> int:
        limit = self._limits[self._count] if self._count < len(self._limits) else 0
        there = len(received) - begin
        if size > limit or self._count >= len(self._limits):
            self._sizes.append(size)
            self._skip = size
            if not size:
                self._end_frame(None, items)
            return begin
        if there >= size:
            self._sizes.append(size)
            self._end_frame(received[begin : begin + size], items)
            return begin + size
        if size <= SMALL_BYTES:
            return at
        if not self._hold(size):
            self.is_blocked = True
            return at
        self._sizes.append(size)
        self.held_bytes = size
        self._large, self._filled = _memory(size), there
        self._large[:there] = received[begin:]
        return len(received)

    def _take_command(self, received: bytes, at: int, begin: int, size: int, items: list[Message | Ping]) -> int:
        if not received[at] & _COMMAND:
            raise Violation("a message before the handshake was through")
        if size > MAX_COMMAND_BYTES or size < 1:
            raise Violation(f"a command of {size} bytes")
        if len(received) < begin + size:
            return at
        content = received[begin : begin + size]
        name, payload = content[1 : 1 + content[0]], content[1 + content[0] :]
        if not self.is_ready:
            if name != b"READY":
                raise Violation(f"command {name[:16]!r} in place of READY")
            _check_socket_type(payload)
            self.is_ready = True
        elif name == b"PING":
            items.append(Ping(command(b"PONG", payload[2:18])))
        return begin + size

    def _end_large(self, items: list[Message | Ping]) -> None:
        content, self._large = self._large, None
        self._release(self.held_bytes)
        self.held_bytes = 0
        self._end_frame(content, items)

    def _end_frame(self, content: bytes | memoryview | None, items: list[Message | Ping]) -> None:
        self._count += 1
        if self._count <= len(self._limits):
            self._frames.append(content)
        if self._more:
            if self._count >= MAX_FRAMES:
                raise Violation(f"a message of more than {MAX_FRAMES} frames")
            return
        header, body = (*self._frames, None)[:2]
        header_bytes, body_bytes = (*self._sizes, 0)[:2]
        items.append(Message(header, body, header_bytes, body_bytes, self._count))
        self._frames, self._sizes, self._count = [], [], 0


def _memory(size: int) -> memoryview:
    """Memory for a frame of which nothing may ever come: a large one is not touched before something does."""
    if size < _LAZY_BYTES:
        return memoryview(bytearray(size))
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _check_greeting(received: bytes) -> None:
    """As much of it as is there. Raises Violation."""
    if received[:1] != b"\xff" or (len(received) > 9 and not received[9] & 1):
        raise Violation("no greeting of ZMTP")
    if len(received) > 10 and received[10] < 3:
        raise Violation(f"version {received[10]} of ZMTP, and we speak 3")
    if len(received) >= 32 and received[12:32] != _MECHANISM:
        raise Violation(f"mechanism {received[12:32].rstrip(bytes(1))!r}, and a local socket has NULL")


def _check_socket_type(properties: bytes) -> None:
    """Raises Violation unless it is one that talks with a ROUTER."""
    at = 0
    while at < len(properties):
        name_end = at + 1 + properties[at]
        value = name_end + 4
        size = int.from_bytes(properties[name_end:value], "big")
        if len(properties) < value + size:
            raise Violation("a READY that is cut off")
        if properties[at + 1 : name_end].lower() == b"socket-type":
            if properties[value : value + size] in _SOCKET_TYPES:
                return
            raise Violation(f"a socket of type {properties[value : value + size][:16]!r}")
        at = value + size
    raise Violation("a READY without the type of its socket")
