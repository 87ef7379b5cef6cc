"""What the core can want done: a closed union. Returned by the core, executed by the loop. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from embeddaemon.config.settings import Settings
from embeddaemon.models.order import LoadOrder
from embeddaemon.models.spec import ModelSpec
from embeddaemon.protocol import link
from embeddaemon.protocol.messages import Answer, Vectors
from embeddaemon.supervisor.connections.authorisation import Access


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a client; ``document`` is the frame behind a ``Document`` header."""

    client: bytes
    answer: Answer
    document: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Forward:
    """Send a worker's frames on to a client, untouched."""

    client: bytes
    frames: list[Any]


@dataclass(frozen=True, slots=True)
class Recall:
    """Answer a client with vectors that were kept."""

    client: bytes
    answer: Vectors
    frames: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SendDispatch:
    """Give a worker whole requests; ``payload`` is header, body, header, body … as the clients sent them."""

    worker: int
    dispatch: link.Dispatch
    payload: list[object]


@dataclass(frozen=True, slots=True)
class SendWaiting:
    """Tell a client that its requests wait, and why. That nobody is there any more is learned by it."""

    client: bytes
    requests: int
    why: str | None = None


@dataclass(frozen=True, slots=True)
class SendCancel:
    """Tell a worker that nobody waits for some of what it holds."""

    worker: int
    incarnation: int
    serials: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SendConvict:
    """Tell a worker which texts it must not touch, and for how long."""

    worker: int
    incarnation: int
    texts: tuple[link.Convicted, ...]


@dataclass(frozen=True, slots=True)
class SendCanary:
    """Have a worker compute the text whose vector is known (canary.py)."""

    worker: int
    incarnation: int
    model: str


@dataclass(frozen=True, slots=True)
class DumpStacks:
    """Have a process that hangs write where its threads are to the log, before it is killed."""

    child: int


@dataclass(frozen=True, slots=True)
class SendDrain:
    """Tell a worker to finish what it holds and go."""

    worker: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class SendTrim:
    """Tell a worker to give back the memory that is free inside it."""

    worker: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class LimitMemory:
    """Set the hard limit of a process that lives: from now on it may grow by so many bytes and no more.

    Sent again when its lease grows, which never makes the limit lower. Where the system has none, nothing happens.
    """

    child: int
    growth_bytes: int


@dataclass(frozen=True, slots=True)
class KeepFootprints:
    """Write what was learned about footprints into the state folder; ``document`` is the whole file."""

    document: str


@dataclass(frozen=True, slots=True)
class StartForkServer:
    """Start the process that imports everything and forks."""

    child: int


@dataclass(frozen=True, slots=True)
class StartTemplate:
    """Have the fork server fork a process that loads a model and forks its workers."""

    child: int
    order: LoadOrder


@dataclass(frozen=True, slots=True)
class StartFetcher:
    """Have the fork server fork a process that brings a hub model into the cache."""

    child: int
    source: str


@dataclass(frozen=True, slots=True)
class StartWorker:
    """From template ``template``; else, when None, a process that loads ``order`` for itself."""

    child: int
    worker: int
    incarnation: int
    threads: int
    template: int | None
    order: LoadOrder | None
    spawn: bool = False
    """A fresh interpreter instead of a fork of the fork server."""


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL. Nothing happens when the process is gone already; its end is reported as always."""

    child: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Let go of all that is held of a process whose end nobody will report. If it lives it learns by it to exit."""

    child: int


@dataclass(frozen=True, slots=True)
class ReadCard:
    """Read the folder of a model: ``folder`` when it was fetched, else where the source says."""

    spec: ModelSpec
    folder: str | None
    is_successor: bool = False
    """To be loaded beside what serves; what is read, or why it is not, is told as such."""


@dataclass(frozen=True, slots=True)
class LookAtFiles:
    """Find the marks of the files of a model, within its folder; takes as long as it takes."""

    model: str
    folder: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """Read the configuration again, and compare it with the settings that are in force."""

    settings: Settings
    asker: tuple[bytes, int] | None
    """The client that asked for it, and the id of its request."""


@dataclass(frozen=True, slots=True)
class SetLog:
    """How the log looks from now on, and the least important lines in it."""

    format: str
    level: str


@dataclass(frozen=True, slots=True)
class LetIn:
    """Who may talk to us from now on; connections of anybody else end."""

    access: Access
    """Without the group of the socket file."""
    connections_of_user: int | None
    """The most of one user; None: the default."""


@dataclass(frozen=True, slots=True)
class TakeSample:
    """Measure memory now."""


@dataclass(frozen=True, slots=True)
class Log:
    """One line of the log."""

    level: str
    event: str
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exit:
    """Everything is answered and every process reaped, or given up: leave the loop."""

    code: int


Command = (
    Reply
    | Forward
    | Recall
    | SendDispatch
    | SendWaiting
    | SendCancel
    | SendConvict
    | SendCanary
    | DumpStacks
    | SendDrain
    | SendTrim
    | LimitMemory
    | KeepFootprints
    | StartForkServer
    | StartTemplate
    | StartFetcher
    | StartWorker
    | Kill
    | Forget
    | ReadCard
    | LookAtFiles
    | ReadSettings
    | SetLog
    | LetIn
    | TakeSample
    | Log
    | Exit
)
