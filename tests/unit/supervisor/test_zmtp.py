"""ZMTP byte by byte: the same messages however they are cut, and bounded memory whatever is sent."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddaemon.protocol.limits import MAX_HEADER_BYTES
from embeddaemon.supervisor.connections import zmtp
from embeddaemon.supervisor.connections.zmtp import Inbound, Message, Ping, Violation
from tests.support.raw_peer import READY, frame

MAX_BODY = 400_000
HELLO = zmtp.GREETING + READY


class Held:
    """Counts what is asked for, and refuses beyond ``limit``."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.bytes = 0
        self.limit = limit

    def hold(self, size: int) -> bool:
        if self.bytes + size > self.limit:
            return False
        self.bytes += size
        return True

    def release(self, size: int) -> None:
        self.bytes -= size


def inbound(held: Held | None = None) -> Inbound:
    held = held or Held()
    return Inbound(MAX_BODY, held.hold, held.release)


def receive(peer: Inbound, sent: bytes, step: int = 1 << 30) -> list[Message | Ping]:
    """As front.py does it: into the target of a large frame where there is one, ``step`` bytes at a time."""
    items: list[Message | Ping] = []
    at = 0
    while at < len(sent):
        target = peer.target()
        chunk = sent[at : at + step] if target is None else sent[at : at + min(step, len(target))]
        at += len(chunk)
        if target is None:
            items += peer.feed(chunk)
        else:
            target[: len(chunk)] = chunk
            items += peer.filled(len(chunk))
    return items


def contents(items: list[Message | Ping]) -> list[tuple[bytes | None, bytes | None, int, int, int]]:
    return [
        (
            None if item.header is None else bytes(item.header),
            None if item.body is None else bytes(item.body),
            item.header_bytes,
            item.body_bytes,
            item.frames,
        )
        for item in items
        if isinstance(item, Message)
    ]


def waits(peer: Inbound) -> bool:
    return peer.is_blocked


SIZES = [0, 1, 255, 256, 8192, 8193, 300_000, MAX_BODY]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [7, 4096, 1 << 30])
def test_message_is_the_same_however_it_is_cut(size: int, step: int) -> None:
    held, body = Held(), bytes(range(256)) * (size // 256) + bytes(size % 256)
    peer = inbound(held)
    items = receive(peer, HELLO + (frame(b"header", more=True) + frame(body)) * 2, step)
    assert contents(items) == [(b"header", body, 6, size, 2)] * 2
    assert held.bytes == 0
    assert not peer.is_in_message


def test_what_is_too_large_is_counted_and_thrown_away() -> None:
    held = Held()
    sent = frame(bytes(MAX_HEADER_BYTES + 1), more=True) + frame(bytes(MAX_BODY + 1))
    items = receive(inbound(held), HELLO + sent + frame(b"next", more=True) + frame(b""), 5000)
    assert contents(items) == [(None, None, MAX_HEADER_BYTES + 1, MAX_BODY + 1, 2), (b"next", b"", 4, 0, 2)]


@pytest.mark.parametrize("count", [1, 3, zmtp.MAX_FRAMES])
def test_wrong_number_of_frames_is_told_with_the_message(count: int) -> None:
    sent = frame(b"x", more=True) * (count - 1) + frame(b"x")
    (item,) = receive(inbound(), HELLO + sent)
    assert isinstance(item, Message)
    assert item.frames == count


def test_message_without_end_is_a_violation() -> None:
    with pytest.raises(Violation, match="frames"):
        receive(inbound(), HELLO + frame(b"", more=True) * (zmtp.MAX_FRAMES + 1))


def test_peer_goes_on_when_there_is_room_for_its_frame() -> None:
    held = Held(10_000)
    first, second = inbound(held), inbound(held)
    body = bytes(9000)
    message = frame(b"h", more=True) + frame(body)
    assert not receive(first, HELLO + message[:100])
    assert held.bytes == 9000
    assert not receive(second, HELLO + message[:100])
    assert waits(second)
    assert contents(receive(first, message[100:])) == [(b"h", body, 1, 9000, 2)]
    assert not second.feed(b"")
    assert not waits(second)
    assert contents(receive(second, message[100:])) == [(b"h", body, 1, 9000, 2)]


def test_ping_is_answered_with_its_context() -> None:
    (ping,) = receive(inbound(), HELLO + zmtp.command(b"PING", b"\0\x0acontext"))
    assert ping == Ping(zmtp.command(b"PONG", b"context"))


def test_frames_out_are_what_comes_in() -> None:
    sizes = [0, 255, 256]
    sent = b"".join(zmtp.frames_out([memoryview(bytes(size)) for size in sizes]))
    (item,) = receive(inbound(), HELLO + sent)
    assert isinstance(item, Message)
    assert (item.header_bytes, item.body_bytes, item.frames) == (0, 255, 3)


@given(st.lists(st.binary(max_size=300), max_size=20), st.booleans())
def test_whatever_is_sent_ends_in_messages_or_a_violation(chunks: list[bytes], is_greeted: bool) -> None:
    held = Held(1 << 20)
    peer = inbound(held)
    with suppress(Violation):
        if is_greeted:
            receive(peer, HELLO)
        for chunk in chunks:
            receive(peer, chunk)
    assert held.bytes in (0, peer.held_bytes)
    assert peer.held_bytes <= MAX_BODY
