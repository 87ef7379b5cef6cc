"""Messages between the supervisor and the processes that fork, over Unix SOCK_SEQPACKET sockets: one in each packet.

The *fork server* has imported everything and forks templates, fetchers (download a model from the hub) and workers of
devices that cannot be forked after loading (cuda, mps). A *template* has loaded one model key and forks its workers.
Both say ``Forked`` for each child and ``Exited`` when they reaped it. A template or fetcher gets a control socket of
its own, and a worker the file of its journal (journal.py): they travel with the command as the packet's one file
descriptor (SCM_RIGHTS).

Whoever reads end-of-file on its control socket has lost the supervisor and exits at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from embeddaemon.errors import ProtocolError
from embeddaemon.protocol.fields import Fields, pack, unpack

MAX_PACKET_BYTES = 128 * 1024
"""One message. Orders with long prompts are the largest, a few KiB."""

EXIT_LOAD_FAILED = 3
"""Exit code of a process that could not load its model: not a crash, restarting alone does not help."""
EXIT_ORPHANED = 4
"""Exit code of a process that found its parent gone."""
EXIT_BUG = 5
"""Exit code after an exception that nobody expected; the traceback is in the log."""
EXIT_OUT_OF_MEMORY = 7
"""It asked for memory and got none: its hard limit (RLIMIT_DATA) or the system's."""
EXIT_FORK_FAILED = 6
"""In ``Exited`` with pid 0: the system refused the fork (no memory, too many processes); the child never lived."""


@dataclass(frozen=True, slots=True)
class ForkTemplate:
    """Fork a template; the packet carries its control socket. ``child`` is the supervisor's number for the process."""

    child: int
    order: Mapping[str, Any]
    """``models.order.LoadOrder`` as a map."""


@dataclass(frozen=True, slots=True)
class ForkWorker:
    """Fork a worker. To a template ``order`` is None; from the fork server the worker loads ``order`` for itself."""

    child: int
    worker: int
    incarnation: int
    endpoint: str
    """Of the supervisor's link socket."""
    threads: int
    heartbeat_seconds: float
    order: Mapping[str, Any] | None = None
    cgroup: str | None = None
    """The folder of the memory cgroup that it has to enter, first thing."""
    secret: str = ""
    """Part of its routing ids: proof that it was us who started it."""


@dataclass(frozen=True, slots=True)
class ForkFetcher:
    """Fork a process that brings a hub model into the cache; the packet carries its control socket."""

    child: int
    source: str
    """``hub:ORG/NAME[@REVISION]``."""


@dataclass(frozen=True, slots=True)
class ForkServerReady:
    """Everything is imported. The proof: the modules that are there, and the number of threads, which is 1."""

    pid: int
    modules: list[str]
    threads: int
    private_bytes: int


@dataclass(frozen=True, slots=True)
class TemplateReady:
    """The model is loaded, converted and warm. Bytes are measured, private to the process; the peak is of loading."""

    pid: int
    threads: int
    private_bytes: int
    peak_bytes: int
    loads: int
    """How often this process loaded the model: 1."""
    load_seconds: float
    facts: dict[str, Any]
    """What the engine found: ``engine, family, precision, device, dim, max_tokens, parameters, weights_bytes``."""


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A template or fetcher could not do its work; it exits with ``EXIT_LOAD_FAILED``."""

    error: dict[str, Any]
    """As ``error_codec.error_to_map`` gives it."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The hub model is in the local cache."""

    folder: str


@dataclass(frozen=True, slots=True)
class Forked:
    """Child ``child`` lives as process ``pid``."""

    child: int
    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    """Child ``child`` was reaped: ``exit_code`` as ``os.waitstatus_to_exitcode``, so -9 is SIGKILL."""

    child: int
    pid: int
    exit_code: int


ToForker = ForkTemplate | ForkWorker | ForkFetcher
FromForker = ForkServerReady | TemplateReady | LoadFailed | Fetched | Forked | Exited

_KINDS: dict[str, type[Any]] = {
    "fork_template": ForkTemplate,
    "fork_worker": ForkWorker,
    "fork_fetcher": ForkFetcher,
    "fork_server_ready": ForkServerReady,
    "template_ready": TemplateReady,
    "load_failed": LoadFailed,
    "fetched": Fetched,
    "forked": Forked,
    "exited": Exited,
}
_NAMES = {cls: name for name, cls in _KINDS.items()}


def encode(message: ToForker | FromForker) -> bytes:
    """One packet. Raises ProtocolError when it would be longer than MAX_PACKET_BYTES."""
    packet = pack({"type": _NAMES[type(message)], **asdict(message)})
    if len(packet) > MAX_PACKET_BYTES:
        raise ProtocolError(
            f"control message {_NAMES[type(message)]} has {len(packet)} bytes, the limit is {MAX_PACKET_BYTES}"
        )
    return packet


def decode(packet: bytes | memoryview) -> ToForker | FromForker:
    """The message of a packet, every field checked."""
    values = unpack(packet, max_bytes=MAX_PACKET_BYTES, max_map=4096, what="control message")
    kind = values.pop("type", None)
    fields = Fields(values, f"control message {kind}")
    message = _build(kind, fields)
    fields.end()
    return message


def _build(kind: object, fields: Fields) -> ToForker | FromForker:
    match kind:
        case "fork_template":
            return ForkTemplate(child=fields.integer("child"), order=fields.mapping("order"))
        case "fork_worker":
            return ForkWorker(
                child=fields.integer("child"),
                worker=fields.integer("worker"),
                incarnation=fields.integer("incarnation"),
                endpoint=fields.text("endpoint"),
                threads=fields.integer("threads", low=1),
                heartbeat_seconds=fields.number("heartbeat_seconds"),
                order=fields.mapping_or_none("order"),
                cgroup=fields.text_or_none("cgroup"),
                secret=fields.text("secret"),
            )
        case "fork_fetcher":
            return ForkFetcher(child=fields.integer("child"), source=fields.text("source"))
        case "fork_server_ready":
            return ForkServerReady(
                pid=fields.integer("pid"),
                modules=list(fields.texts("modules")),
                threads=fields.integer("threads"),
                private_bytes=fields.integer("private_bytes"),
            )
        case "template_ready":
            return TemplateReady(
                pid=fields.integer("pid"),
                threads=fields.integer("threads"),
                private_bytes=fields.integer("private_bytes"),
                peak_bytes=fields.integer("peak_bytes"),
                loads=fields.integer("loads"),
                load_seconds=fields.number("load_seconds"),
                facts=fields.mapping("facts"),
            )
        case "load_failed":
            return LoadFailed(error=fields.mapping("error"))
        case "fetched":
            return Fetched(folder=fields.text("folder"))
        case "forked":
            return Forked(child=fields.integer("child"), pid=fields.integer("pid"))
        case "exited":
            return Exited(
                child=fields.integer("child"),
                pid=fields.integer("pid"),
                exit_code=fields.integer("exit_code", low=-128, high=255),
            )
        case _:
            raise ProtocolError(f"control message of unknown type {kind!r}")
