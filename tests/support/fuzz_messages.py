"""Messages that no client of ours sends: valid ones mutated, wrong types, sizes and counts, and plain noise. Seeded."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import msgpack

from embeddaemon.protocol import bodies, codec
from embeddaemon.protocol.limits import MAX_HEADER_BYTES, VERSION, Limits

Frames = list[bytes]

_OPS = ("hello", "embed", "embed", "embed", "tokenize", "models", "status", "cancel")
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 1.5, float("nan"), float("inf")),
    *("", "stub", "\0", "x" * 300, "\ud7ff\u00e9", b"", b"\xff\xfe", [], [1, [2, [3]]], {}, {"a": {"b": 1}}),
    *(list(range(300)), {str(number): number for number in range(100)}, msgpack.ExtType(5, b"ext")),
)
_TEXTS: tuple[Any, ...] = (
    *([], [""], ["\0"], "text", {"texts": 1}, [1], [None], [["a"]], ["a"] * 3000, ["x" * 70_000], [b"bytes"]),
    *(["a", 1, "b"], [True], [{"a": "b"}], ["\U0001f600" * 10], [" " * 100]),
)
_IDS: tuple[Any, ...] = ([], [[]], [[-1]], [[2**40]], [["a"]], [1, 2], [[1] * 5000], [[1.5]], [[0, 29_999]], [[30_000]])


def hostile_message(choose: random.Random) -> Frames:
    """The frames of one message."""
    return choose.choice(_KINDS)(choose)


def header(choose: random.Random) -> dict[str, Any]:
    """Of a request that is right, and would be served. It brings no model and sends none away."""
    op = choose.choice(_OPS)
    values: dict[str, Any] = {"v": VERSION, "id": choose.randint(1, 50), "op": op, "deadline_ms": 2000}
    if op in {"embed", "tokenize"}:
        values |= {"model": "stub", "lane": choose.choice(("interactive", "bulk"))}
    if op == "cancel":
        values["ids"] = [choose.randint(1, 50) for _ in range(choose.randrange(4))]
    return values


def _body(choose: random.Random) -> bytes:
    return bodies.encode_texts([f"text {choose.randrange(100)}" for _ in range(choose.randint(1, 3))], Limits())


def _packed(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True, unicode_errors="surrogatepass")
    return packed


def _mutated(choose: random.Random) -> Frames:
    """A right request with some of its bytes changed, left out or repeated, in the header or the body."""
    frames = [bytearray(_packed(header(choose))), bytearray(_body(choose))]
    victim = choose.choice(frames)
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(len(victim)) if victim else 0
        match choose.randrange(4):
            case 0:
                victim[at : at + 1] = bytes((choose.randrange(256),))
            case 1:
                del victim[at : at + choose.randint(1, 8)]
            case 2:
                victim[at:at] = choose.randbytes(choose.randint(1, 8))
            case _:
                victim[at:at] = victim[at : at + 16]
    return [bytes(frame) for frame in frames]


def _wrong_type(choose: random.Random) -> Frames:
    """One or two fields have a value of another kind, are missing, or are unknown."""
    values = header(choose)
    names = [*values, "model", "task", "prompt", "dimensions", "normalize", "truncate", "precision", "lenient", "new"]
    for _ in range(choose.randint(1, 2)):
        name = choose.choice(names)
        if choose.random() < 0.2:
            values.pop(name, None)
        else:
            values[name] = choose.choice(_VALUES)
    return [_packed(values), _body(choose)]


def _wrong_body(choose: random.Random) -> Frames:
    """A right header with a body that only a worker finds out about."""
    values = {"v": VERSION, "id": choose.randint(1, 50), "op": choose.choice(("embed", "tokenize"))}
    values |= {"model": "stub", "deadline_ms": 2000}
    body = choose.choice(
        (
            lambda: _packed({"texts": choose.choice(_TEXTS)}),
            lambda: _packed({"ids": choose.choice(_IDS)}),
            lambda: _packed(choose.choice(_VALUES)),
            lambda: _packed({"texts": ["a"], "ids": [[1]]}),
            lambda: _packed({"texts": ["a"]}) + b"\x00",
            lambda: b"\x81\xa5texts\x91\xa4\xff\xfe\xfd\xfc",
            lambda: b"\x81\xa5texts\xdd\x00\x0f\x42\x40" + b"\x80" * 1_000_000,
            lambda: b"\x81\xa5texts\xdd\xff\xff\xff\xff\xa1a",
            lambda: b"",
        )
    )()
    return [_packed(values), body]


def _nested(choose: random.Random) -> Frames:
    """Lists in lists, or maps in maps, deeper than anybody reads."""
    depth = choose.choice((10, 100, 500, 1023, 1025, 5000, 60_000))
    opening = choose.choice((b"\x91", b"\x81\xa1a"))
    nest = opening * depth + b"\xc0"
    if choose.random() < 0.5:
        return [nest, _body(choose)]
    return [_packed(header(choose)), b"\x81\xa5texts" + nest]


def _huge_length(choose: random.Random) -> Frames:
    """Strings, bytes, lists and maps that announce more than there is."""
    tag = choose.choice((b"\xdb", b"\xc6", b"\xdd", b"\xdf", b"\xc9"))
    huge = tag + struct.pack(">I", choose.choice((2**32 - 1, 2**31, 2**24, 70_000))) + b"x" * choose.randrange(50)
    if choose.random() < 0.5:
        return [huge, _body(choose)]
    return [b"\x84\xa1v\x01\xa2id\x05\xa2op\xa5embed\xa5model" + huge, _body(choose)]


def _large_header(choose: random.Random) -> Frames:
    size = choose.choice((MAX_HEADER_BYTES - 50, MAX_HEADER_BYTES, MAX_HEADER_BYTES + 1, 300_000))
    return [_packed(header(choose) | {"prompt": "p" * size}), _body(choose)]


def _many_frames(choose: random.Random) -> Frames:
    """One frame, none that says anything, or far too many."""
    count = choose.choice((1, 1, 3, 4, 10, 63, 64))
    return [_packed(header(choose)) if choose.random() < 0.5 else choose.randbytes(20) for _ in range(count)]


def _empty_frames(choose: random.Random) -> Frames:
    frames = [_packed(header(choose)), _body(choose)]
    for _ in range(choose.randint(1, 4)):
        frames.insert(choose.randrange(len(frames) + 1), b"")
    return choose.choice((frames, [b"", b""], [b""], [frames[0], b""]))


def _wrong_version(choose: random.Random) -> Frames:
    return [_packed(header(choose) | {"v": choose.choice((0, 2, 255, -1, "1", None, 1.0))}), _body(choose)]


def _unknown_op(choose: random.Random) -> Frames:
    op = choose.choice(("rerank", "shutdown", "", "EMBED", "__init__", "load", "unload", "x" * 1000))
    return [_packed(header(choose) | {"op": op, "model": f"no such {choose.randrange(9)}"}), _body(choose)]


def _replayed(choose: random.Random) -> Frames:
    """A request that is right, but for its id, which is on its way already."""
    return [_packed(header(choose) | {"id": 1}), _body(choose)]


def _noise(choose: random.Random) -> Frames:
    return [choose.randbytes(choose.choice((0, 1, 7, 40, 3000))) for _ in range(choose.randint(1, 3))]


_KINDS: tuple[Callable[[random.Random], Frames], ...] = (
    *(_mutated, _mutated, _mutated, _wrong_type, _wrong_type, _wrong_body, _nested, _huge_length, _large_header),
    *(_many_frames, _empty_frames, _wrong_version, _unknown_op, _replayed, _noise),
)

CODES = frozenset(
    {
        *("malformed", "unsupported_version", "invalid_input", "input_too_large", "unknown_model", "unknown_task"),
        *("unknown_dimensions", "text_too_long", "busy", "expired", "cancelled", "forbidden"),
    }
)
"""What such a message may be answered with beside a result: never that something broke inside."""


def code_of(frames: Frames) -> str:
    """Of an answer: its error's code, or ``ok``. Raises ProtocolError when it is no answer."""
    answer = codec.decode_answer(frames[0])
    return getattr(answer, "code", "ok")
