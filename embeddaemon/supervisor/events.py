"""What can happen to the supervisor: a closed union. Made by the loop, understood by the core. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from embeddaemon.config.changes import Changes
from embeddaemon.errors import EmbedDaemonError
from embeddaemon.governor.samples import Observation
from embeddaemon.models.card import ModelCard
from embeddaemon.protocol import control, link
from embeddaemon.protocol.journal import Turn
from embeddaemon.protocol.messages import Request
from embeddaemon.supervisor.connections.authorisation import Access


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A client's request. ``header`` and ``body`` are the frames as they came, opaque here."""

    client: bytes
    request: Request
    header: object
    body: object
    body_bytes: int
    is_admin: bool
    digest: bytes | None = None
    """Of the body, where an answer to it may have been kept or may be worth keeping."""
    user: str = ""
    """Whose it is (authorisation.py)."""


@dataclass(frozen=True, slots=True)
class RequestMalformed:
    """Frames that are no request; answered when they have an id, counted always."""

    client: bytes
    id: int
    error: EmbedDaemonError


@dataclass(frozen=True, slots=True)
class ClientGone:
    """Something was sent to a client, and nobody is there any more."""

    client: bytes


@dataclass(frozen=True, slots=True)
class WorkerSaid:
    """A message of a worker; ``frames`` is what follows a Result's header."""

    message: link.FromWorker
    frames: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ForkerSaid:
    """A message on the control socket of process ``child`` (the fork server, a template or a fetcher)."""

    child: int
    message: control.FromForker


@dataclass(frozen=True, slots=True)
class ControlLost:
    """End-of-file on the control socket of ``child``, or nothing can be sent on it: the process is gone or going."""

    child: int


@dataclass(frozen=True, slots=True)
class ChildReaped:
    """The supervisor itself collected ``child``."""

    child: int
    exit_code: int
    orphan: bool
    """Whether it was another's, whose end made it ours; else our own: the fork server, a spawned worker."""


@dataclass(frozen=True, slots=True)
class StartFailed:
    """``child`` could not be started at all."""

    child: int
    error: EmbedDaemonError


@dataclass(frozen=True, slots=True)
class CardRead:
    """The folder of a model was read."""

    model: str
    card: ModelCard
    is_successor: bool = False
    """Its files changed while it serves."""


@dataclass(frozen=True, slots=True)
class CardFailed:
    """The folder of a model could not be understood."""

    model: str
    error: EmbedDaemonError
    is_successor: bool = False


@dataclass(frozen=True, slots=True)
class FilesSeen:
    """The files of a model as they lie there now; None: nobody could say."""

    model: str
    marks: str | None


@dataclass(frozen=True, slots=True)
class SampleTaken:
    """Memory as it is now."""

    observation: Observation


@dataclass(frozen=True, slots=True)
class StallNoticed:
    """The kernel says that tasks wait for memory right now: a look at the numbers is due."""


@dataclass(frozen=True, slots=True)
class KernelKilled:
    """The kernel ended ``child`` for lack of memory; comes before the news of its end."""

    child: int
    by_hard_limit: bool
    """For passing its own hard limit; else because the cgroup or the machine as a whole had no more."""


@dataclass(frozen=True, slots=True)
class ReloadRequested:
    """SIGHUP: the configuration is to be read again."""


@dataclass(frozen=True, slots=True)
class SettingsRead:
    """The configuration was read again."""

    changes: Changes
    """Against the settings that were in force."""
    cards: Mapping[str, CardRead | CardFailed]
    """What the folders of models say that are new, or are to be loaded anew."""
    files: tuple[str, ...]
    access: Access
    """Who may talk to us, as numbers; without the group of the socket file."""
    asker: tuple[bytes, int] | None
    """The client that asked for it, and the id of its request."""


@dataclass(frozen=True, slots=True)
class SettingsWrong:
    """The configuration was read again and cannot be used."""

    error: EmbedDaemonError
    asker: tuple[bytes, int] | None


@dataclass(frozen=True, slots=True)
class JournalRead:
    """What the threads of worker ``child`` were at when it ended; comes before the news of its end."""

    child: int
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A timer of the core is due."""


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """SIGTERM, SIGINT, or the process that we belong to is gone. Asked twice: stop at once."""

    reason: str


ClientEvent = RequestReceived | RequestMalformed | ClientGone
ProcessEvent = WorkerSaid | ForkerSaid | ControlLost | KernelKilled | JournalRead | ChildReaped | StartFailed
CardEvent = CardRead | CardFailed | FilesSeen
ConfigEvent = ReloadRequested | SettingsRead | SettingsWrong
Event = ClientEvent | ProcessEvent | CardEvent | ConfigEvent | SampleTaken | StallNoticed | TimePassed | DrainRequested
