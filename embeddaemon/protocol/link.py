"""Messages between the supervisor and its workers, over one private ipc ROUTER (the supervisor's) and DEALERs (theirs).

A worker has two sockets: *intake* (``routing_id(worker, incarnation, secret)``) receives ``Dispatch``, ``Cancel``,
``Convict``, ``Trim`` and ``Drain`` and sends ``Ready`` (or ``LoadFailed``), ``Heartbeat`` and the answers of requests
that never reached the model; *compute* only sends ``Result`` and at the end ``Drained``. Every message carries worker
and incarnation; the supervisor drops what comes from an older life.

Who does not know the secret, which goes to a worker with its order and nowhere else, can neither take a worker's place
at the ROUTER nor speak as one.

Frames. ``Dispatch``: header, then for each item the client's own header and body, as they came. ``Result``: header,
then the frames of the client's answer, ready to be sent on. The others: the header alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from embeddaemon.errors import ProtocolError
from embeddaemon.protocol.fields import Fields, pack, unpack
from embeddaemon.protocol.journal import DIGEST_BYTES

_MAX_LINK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Item:
    """One request of a dispatch."""

    serial: int
    """The supervisor's own number of the request."""
    model: str
    """Name of the model as the answer shows it."""
    expires_in_ms: int
    """What is left of its deadline when the dispatch leaves."""
    queue_us: int
    """How long it waited in the supervisor, for the answer's timings."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Whole requests for one worker."""

    incarnation: int
    number: int
    """Of this dispatch, rising."""
    items: tuple[Item, ...]
    alone: tuple[bytes, ...] | None = None
    """A worker may have died of these texts: each of them, by its digest, is tokenized and computed with nothing else
    in the worker. Empty: all texts are. None: none is."""


@dataclass(frozen=True, slots=True)
class Convicted:
    """A text that no worker may touch."""

    digest: bytes
    expires_in_ms: int
    death: str
    """Class of the last death by it, as in status; the client is told."""


@dataclass(frozen=True, slots=True)
class Convict:
    """Refuse these texts from now on, those as well that are held and not computed yet."""

    incarnation: int
    texts: tuple[Convicted, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """Take nothing new, finish what you hold, say ``Drained``, exit 0."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for these requests any more: end them as ``cancelled``, uncomputed where that is still possible."""

    incarnation: int
    serials: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trim:
    """Give back all memory that is free inside the process, and say at once in a heartbeat what is left."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker can take dispatches. Bytes are measured, private to the process."""

    worker: int
    incarnation: int
    pid: int
    private_bytes: int
    threads: int
    """Compute threads that it will use."""
    loads: int
    """How many times this process itself has loaded the model: 0 in a forked worker, 1 in a spawned one."""
    facts: Mapping[str, Any] | None = None
    """Of a worker that loaded for itself, what ``control.TemplateReady.facts`` says; None in a forked one."""
    peak_bytes: int = 0
    """The most that was private to the process until now, loading included; 0 when not known."""
    device_bytes: int = 0
    """What it holds of its device's own memory, its context included; 0 on the CPU and where memory is unified."""


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A worker that loads for itself could not; it exits with ``EXIT_LOAD_FAILED`` (control.py)."""

    worker: int
    incarnation: int
    error: Mapping[str, Any]
    """As ``error_codec.error_to_map`` gives it."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The process lives, and how far it is. ``progress`` counts finished micro-batches and never falls."""

    worker: int
    incarnation: int
    progress: int
    busy: bool
    private_bytes: int
    """0 when not measured this time."""
    peak_bytes: int = 0
    """The most that was private to the process since the last heartbeat; 0 when not measured."""
    device_bytes: int = 0
    """As in ``Ready``."""
    trims: int = 0
    """How many ``Trim`` it has obeyed: whether the numbers are from before or after one."""
    tokens: int = 0
    """Tokens that it has computed in its life: how much the peaks say about what is still to come."""
    turn_ms: int = 0
    """For how long a thread has been at what it computes now: of the thread that is latest."""
    patience_ms: int = 0
    """How long that may take at the speed that was measured, many times over."""


@dataclass(frozen=True, slots=True)
class Result:
    """One request ended in the worker; the client's frames follow. ``code`` is empty for a good answer."""

    worker: int
    incarnation: int
    serial: int
    code: str
    texts: int
    tokens: int
    tokenize_us: int
    compute_us: int


@dataclass(frozen=True, slots=True)
class Drained:
    """Everything held was answered; the process exits 0 now."""

    worker: int
    incarnation: int


ToWorker = Dispatch | Drain | Cancel | Convict | Trim
FromWorker = Ready | LoadFailed | Heartbeat | Result | Drained


def routing_id(worker: int, incarnation: int, secret: str = "") -> bytes:
    """ZeroMQ routing id of a worker's intake socket; ``secret`` is that of its order."""
    return f"w{worker}.{incarnation}.{secret}".encode()


def compute_id(intake_id: bytes) -> bytes:
    """That of its compute socket."""
    return intake_id + b".c"


def encode_to_worker(message: ToWorker) -> bytes:
    """The header frame of a message to a worker."""
    match message:
        case Dispatch():
            items = [[item.serial, item.model, item.expires_in_ms, item.queue_us] for item in message.items]
            dispatch = {"type": "dispatch", "incarnation": message.incarnation, "number": message.number}
            alone = {} if message.alone is None else {"alone": list(message.alone)}
            return pack({**dispatch, "items": items, **alone})
        case Convict():
            texts = [[text.digest, text.expires_in_ms, text.death] for text in message.texts]
            return pack({"type": "convict", "incarnation": message.incarnation, "texts": texts})
        case Drain():
            return pack({"type": "drain", "incarnation": message.incarnation})
        case Cancel():
            return pack({"type": "cancel", "incarnation": message.incarnation, "serials": list(message.serials)})
        case Trim():
            return pack({"type": "trim", "incarnation": message.incarnation})
        case _:
            assert_never(message)


def decode_to_worker(header: bytes | memoryview) -> ToWorker:
    """The message of a header frame. Raises ProtocolError."""
    fields = Fields(unpack(header, max_bytes=_MAX_LINK_BYTES, what="link header"), "link header")
    kind = fields.text("type")
    incarnation = fields.integer("incarnation")
    match kind:
        case "dispatch":
            message: ToWorker = Dispatch(
                incarnation=incarnation,
                number=fields.integer("number"),
                items=tuple(_item(values) for values in fields.sequence("items")),
                alone=None if fields.is_absent("alone") else tuple(map(_digest, fields.sequence("alone"))),
            )
        case "convict":
            message = Convict(incarnation, tuple(_convicted(values) for values in fields.sequence("texts")))
        case "drain":
            message = Drain(incarnation=incarnation)
        case "cancel":
            message = Cancel(incarnation=incarnation, serials=fields.integers("serials"))
        case "trim":
            message = Trim(incarnation=incarnation)
        case _:
            raise ProtocolError(f"link header: unknown type {kind!r}")
    fields.end()
    return message


def _item(values: Sequence[Any]) -> Item:
    if not isinstance(values, list) or len(values) != 4:
        raise ProtocolError("link header: an item has four values")
    serial, model, expires_in_ms, queue_us = values
    return Item(serial=serial, model=model, expires_in_ms=expires_in_ms, queue_us=queue_us)


def _convicted(values: object) -> Convicted:
    if not isinstance(values, list) or [type(value) for value in values] != [bytes, int, str]:
        raise ProtocolError("link header: a convicted text has a digest, a time and the class of a death")
    digest, expires_in_ms, death = values
    return Convicted(_digest(digest), expires_in_ms, death)


def _digest(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != DIGEST_BYTES:
        raise ProtocolError(f"link header: a digest has {DIGEST_BYTES} bytes")
    return value


def encode_from_worker(message: FromWorker) -> bytes:
    """The header frame of a message from a worker."""
    header: dict[str, Any] = {"worker": message.worker, "incarnation": message.incarnation}
    match message:
        case Ready():
            header |= {
                "type": "ready",
                "pid": message.pid,
                "private_bytes": message.private_bytes,
                "threads": message.threads,
                "loads": message.loads,
                "facts": None if message.facts is None else dict(message.facts),
                "peak_bytes": message.peak_bytes,
                "device_bytes": message.device_bytes,
            }
        case Heartbeat():
            header |= {
                "type": "heartbeat",
                "progress": message.progress,
                "busy": message.busy,
                "private_bytes": message.private_bytes,
                "peak_bytes": message.peak_bytes,
                "device_bytes": message.device_bytes,
                "trims": message.trims,
                "tokens": message.tokens,
                "turn_ms": message.turn_ms,
                "patience_ms": message.patience_ms,
            }
        case Result():
            header |= {
                "type": "result",
                "serial": message.serial,
                "code": message.code,
                "texts": message.texts,
                "tokens": message.tokens,
                "tokenize_us": message.tokenize_us,
                "compute_us": message.compute_us,
            }
        case LoadFailed():
            header |= {"type": "load_failed", "error": dict(message.error)}
        case Drained():
            header |= {"type": "drained"}
        case _:
            assert_never(message)
    return pack(header)


def decode_from_worker(header: bytes | memoryview) -> FromWorker:
    """The message of a header frame. Raises ProtocolError."""
    values = unpack(header, max_bytes=_MAX_LINK_BYTES, what="link header")
    fields = Fields(values, "link header")
    kind, worker, incarnation = fields.text("type"), fields.integer("worker"), fields.integer("incarnation")
    message: FromWorker
    match kind:
        case "result":
            message = Result(
                worker=worker,
                incarnation=incarnation,
                serial=fields.integer("serial"),
                code=fields.text("code"),
                texts=fields.integer("texts"),
                tokens=fields.integer("tokens"),
                tokenize_us=fields.integer("tokenize_us"),
                compute_us=fields.integer("compute_us"),
            )
        case "heartbeat":
            message = Heartbeat(
                worker=worker,
                incarnation=incarnation,
                progress=fields.integer("progress"),
                busy=fields.boolean("busy"),
                private_bytes=fields.integer("private_bytes"),
                peak_bytes=fields.integer("peak_bytes"),
                device_bytes=fields.integer("device_bytes"),
                trims=fields.integer("trims"),
                tokens=fields.integer("tokens"),
                turn_ms=fields.integer("turn_ms"),
                patience_ms=fields.integer("patience_ms"),
            )
        case "ready":
            message = Ready(
                worker=worker,
                incarnation=incarnation,
                pid=fields.integer("pid"),
                private_bytes=fields.integer("private_bytes"),
                threads=fields.integer("threads"),
                loads=fields.integer("loads"),
                facts=fields.mapping_or_none("facts"),
                peak_bytes=fields.integer("peak_bytes"),
                device_bytes=fields.integer("device_bytes"),
            )
        case "load_failed":
            message = LoadFailed(worker=worker, incarnation=incarnation, error=fields.mapping("error"))
        case "drained":
            message = Drained(worker=worker, incarnation=incarnation)
        case _:
            raise ProtocolError(f"link header: unknown type {kind!r}")
    fields.end()
    return message
