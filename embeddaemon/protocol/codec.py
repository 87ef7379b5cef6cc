"""Headers to messages and back, for the clients' protocol. Checks every field; decides nothing.

A request is two frames, header and body. An answer is a header and one raw frame per array (or one msgpack map).
Bodies are in bodies.py, errors in error_codec.py. Raises ProtocolError for what breaks the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from embeddaemon.errors import ProtocolError, UnsupportedVersion
from embeddaemon.protocol.error_codec import decode_error
from embeddaemon.protocol.fields import Fields, pack, unpack
from embeddaemon.protocol.limits import MAX_DIMENSIONS, VERSION
from embeddaemon.protocol.messages import (
    Answer,
    Cancel,
    Document,
    Embed,
    ErrorAnswer,
    Health,
    Hello,
    Lane,
    Load,
    Models,
    Reload,
    Request,
    Status,
    Timings,
    Tokenize,
    Tokens,
    Unload,
    Vectors,
    Waiting,
)

EMPTY_BODY = b""
"""The body of a request that has none."""

_MAX_ID = 2**63 - 1
_LANES = {lane.value: lane for lane in Lane}


def encode_request(request: Request) -> bytes:
    """The header frame of a request. Options that have their default are left out."""
    header: dict[str, Any] = {"v": VERSION, "id": request.id}
    if request.deadline_ms is not None:
        header["deadline_ms"] = request.deadline_ms
    match request:
        case Hello():
            header["op"] = "hello"
        case Embed():
            header |= {"op": "embed", "lane": request.lane.value}
            header |= _given(
                model=request.model, task=request.task, prompt=request.prompt, dimensions=request.dimensions
            )
            header |= {
                "normalize": request.normalize,
                "truncate": request.truncate,
                "precision": request.precision,
                "lenient": request.lenient,
            }
            header |= {"partial": True} if request.partial else {}  # daemons of before do not know it
        case Tokenize():
            header |= {"op": "tokenize", "lane": request.lane.value}
            header |= _given(model=request.model, task=request.task, prompt=request.prompt)
            header |= {"truncate": request.truncate, "lenient": request.lenient}
        case Models():
            header["op"] = "models"
        case Status():
            header["op"] = "status"
        case Load():
            header |= {"op": "load", "model": request.model}
            header |= {"force": True} if request.force else {}
        case Unload():
            header |= {"op": "unload", "model": request.model}
        case Health():
            header |= {"op": "health", "deep": request.deep, "wake": request.wake}
            header |= _given(model=request.model)
        case Reload():
            header["op"] = "reload"
        case Cancel():
            header |= {"op": "cancel", "ids": list(request.ids)}
        case _:
            assert_never(request)
    return pack(header)


def _given(**options: object) -> dict[str, object]:
    return {key: value for key, value in options.items() if value is not None}


def decode_request(header: bytes | memoryview) -> Request:
    """The request of a header frame. Raises ProtocolError (UnsupportedVersion for another version)."""
    values = unpack(header)
    version = values.pop("v", None)
    if version != VERSION:
        raise UnsupportedVersion(
            f"protocol version {version!r} is not spoken here, this side speaks {VERSION}: upgrade the older one",
            details={"spoken": VERSION},
        )
    op = values.pop("op", None)
    fields = Fields(values, f"request {op!r}" if isinstance(op, str) else "request")
    id_ = fields.integer("id", low=1, high=_MAX_ID)
    deadline_ms = fields.integer_or_none("deadline_ms", low=-(2**63), high=7 * 24 * 3600 * 1000)
    request = _decode_op(op, fields, id_, deadline_ms)
    fields.end()
    return request


def _decode_op(op: object, fields: Fields, id_: int, deadline_ms: int | None) -> Request:
    match op:
        case "embed":
            return Embed(
                id=id_,
                deadline_ms=deadline_ms,
                model=fields.text_or_none("model"),
                lane=_lane(fields),
                task=fields.text_or_none("task"),
                prompt=fields.text_or_none("prompt"),
                dimensions=fields.integer_or_none("dimensions", low=1, high=MAX_DIMENSIONS),
                normalize=fields.boolean("normalize", default=True),
                truncate=fields.boolean("truncate", default=True),
                precision=fields.text("precision", default="float32"),
                lenient=fields.boolean("lenient", default=False),
                partial=fields.boolean("partial", default=False),
            )
        case "tokenize":
            return Tokenize(
                id=id_,
                deadline_ms=deadline_ms,
                model=fields.text_or_none("model"),
                lane=_lane(fields),
                task=fields.text_or_none("task"),
                prompt=fields.text_or_none("prompt"),
                truncate=fields.boolean("truncate", default=True),
                lenient=fields.boolean("lenient", default=False),
            )
        case "hello":
            return Hello(id=id_, deadline_ms=deadline_ms)
        case "models":
            return Models(id=id_, deadline_ms=deadline_ms)
        case "status":
            return Status(id=id_, deadline_ms=deadline_ms)
        case "load":
            return Load(
                id=id_,
                deadline_ms=deadline_ms,
                model=fields.text("model"),
                force=fields.boolean("force", default=False),
            )
        case "unload":
            return Unload(id=id_, deadline_ms=deadline_ms, model=fields.text("model"))
        case "health":
            return Health(
                id=id_,
                deadline_ms=deadline_ms,
                model=fields.text_or_none("model"),
                deep=fields.boolean("deep", default=False),
                wake=fields.boolean("wake", default=False),
            )
        case "reload":
            return Reload(id=id_, deadline_ms=deadline_ms)
        case "cancel":
            return Cancel(id=id_, deadline_ms=deadline_ms, ids=fields.integers("ids"))
        case _:
            known = "cancel, embed, health, hello, load, models, reload, status, tokenize, unload"
            raise ProtocolError(f"unknown op {op!r}, known are {known}")


def _lane(fields: Fields) -> Lane:
    return _LANES[fields.chosen("lane", _LANES, default="interactive")]


def request_id(header: bytes | memoryview) -> int:
    """The id of a header that may be broken otherwise, for the error answer; 0 when it cannot be told."""
    try:
        return Fields(unpack(header), "request").integer("id", low=1, high=_MAX_ID)
    except ProtocolError:
        return 0


def encode_answer(answer: Answer | Waiting) -> bytes:
    """The header frame of an answer, or of a sign of life."""
    match answer:
        case Vectors():
            poisoned = {"poisoned": list(answer.poisoned)} if answer.poisoned else {}
            return pack(
                _good(answer) | {"dim": answer.dim, "dtype": answer.dtype, "weights": answer.weights} | poisoned
            )
        case Tokens():
            return pack(_good(answer) | {"dtype": "int32"})
        case Document():
            return pack({"id": answer.id, "ok": True})
        case Waiting():
            return pack({"id": 0, "ok": True, "waiting": answer.requests, **_given(why=answer.why)})
        case ErrorAnswer():
            error = {
                "code": answer.code,
                "message": answer.message,
                "retryable": answer.retryable,
                "retry_after_ms": answer.retry_after_ms,
                "cause": list(answer.cause),
                "details": dict(answer.details),
            }
            return pack({"id": answer.id, "ok": False, "error": error})
        case _:
            assert_never(answer)


def _good(answer: Vectors | Tokens) -> dict[str, Any]:
    timings = answer.timings
    cached = {"cached": True} if timings.cached else {}
    return {
        "id": answer.id,
        "ok": True,
        "model": answer.model,
        "count": answer.count,
        "tokens": answer.tokens,
        "truncated": list(answer.truncated),
        "timings": {
            "queue_us": timings.queue_us,
            "tokenize_us": timings.tokenize_us,
            "compute_us": timings.compute_us,
            **cached,
        },
    }


def decode_answer(header: bytes | memoryview) -> Answer | Waiting:
    """The answer of a header frame. Raises ProtocolError. Unknown fields are passed over: a newer daemon adds some."""
    values = unpack(header, max_bytes=64 * 1024 * 1024, max_array=1 << 20, what="answer")
    fields = Fields(values, "answer")
    id_ = fields.integer("id", high=_MAX_ID)
    if not fields.boolean("ok"):
        return decode_error(id_, fields.mapping("error"))
    if "dim" in values:
        return Vectors(
            id=id_,
            dim=fields.integer("dim"),
            dtype=fields.text("dtype"),
            poisoned=fields.integers("poisoned", default=[]),
            weights=fields.text("weights", default=""),
            **_decode_good(fields),
        )
    if "waiting" in values:
        return Waiting(fields.integer("waiting"), fields.text_or_none("why"))
    if "count" in values:
        return Tokens(id=id_, **_decode_good(fields))
    return Document(id=id_)


def _decode_good(fields: Fields) -> dict[str, Any]:
    timings = Fields(fields.mapping("timings"), "timings")
    return {
        "model": fields.text("model"),
        "count": fields.integer("count"),
        "tokens": fields.integer("tokens"),
        "truncated": fields.integers("truncated"),
        "timings": Timings(
            queue_us=timings.integer("queue_us"),
            tokenize_us=timings.integer("tokenize_us"),
            compute_us=timings.integer("compute_us"),
            cached=timings.boolean("cached", default=False),
        ),
    }


def encode_document(document: Mapping[str, Any]) -> bytes:
    """The frame behind a ``Document`` header."""
    return pack(document)


def decode_document(frame: bytes | memoryview) -> dict[str, Any]:
    """The map behind a ``Document`` header."""
    return unpack(frame, max_bytes=64 * 1024 * 1024, max_array=1 << 20, max_map=1 << 16, what="document")


__all__ = [
    "EMPTY_BODY",
    "decode_answer",
    "decode_document",
    "decode_request",
    "encode_answer",
    "encode_document",
    "encode_request",
    "request_id",
]
