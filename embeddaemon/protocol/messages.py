"""The clients' messages as data: a closed union of requests and one of answers.

Only codec.py and error_codec.py build them from frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from embeddaemon.errors import Detail


class Lane(Enum):
    """Who waits for whom: interactive goes before bulk."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who are you, and what are your limits?"""

    id: int
    deadline_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed:
    """Texts to vectors. ``deadline_ms`` counts from arrival; None is the daemon's default."""

    id: int
    deadline_ms: int | None = None
    model: str | None = None
    lane: Lane = Lane.INTERACTIVE
    task: str | None = None
    prompt: str | None = None
    dimensions: int | None = None
    normalize: bool = True
    truncate: bool = True
    precision: str = "float32"
    lenient: bool = False
    """Embed empty texts and NUL characters as the model does, instead of refusing them."""
    partial: bool = False
    """Where texts are refused as poisoned, answer the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenize:
    """Texts to token ids, special tokens and prompt included, as ``Embed`` would feed them to the model."""

    id: int
    deadline_ms: int | None = None
    model: str | None = None
    lane: Lane = Lane.INTERACTIVE
    task: str | None = None
    prompt: str | None = None
    truncate: bool = True
    lenient: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Which models are configured, and what each is."""

    id: int
    deadline_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the daemon is doing: workers, queues, memory."""

    id: int
    deadline_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Bring a model into memory; answered when it is ready. The daemon's own user or root."""

    id: int
    model: str
    deadline_ms: int | None = None
    force: bool = False
    """Also one that is loaded: new workers from its files as they are now take the place of the old ones. And one
    in quarantine: what is known against it and its texts is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unload:
    """Drain a model's workers and give its memory back; answered when it is gone. The daemon's own user or root."""

    id: int
    model: str
    deadline_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Is the daemon ready, is each model? Asking is no use of a model, and no queue is too full for it."""

    id: int
    deadline_ms: int | None = None
    model: str | None = None
    """Only this one; None asks about all."""
    deep: bool = False
    """Have a known text embedded by every model that is loaded, and check its vector."""
    wake: bool = False
    """With ``deep``: also by one that is not loaded. The daemon's own user or root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """Read the configuration again; answered when it is in force. The daemon's own user or root."""

    id: int
    deadline_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Withdraw requests of this client by their ids; those that have ended, or never were, are passed over."""

    id: int
    ids: tuple[int, ...]
    deadline_ms: int | None = None


ModelRequest = Embed | Tokenize
Request = Hello | Embed | Tokenize | Models | Status | Health | Load | Unload | Reload | Cancel


@dataclass(frozen=True, slots=True)
class Texts:
    """A body of texts."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A body of texts that are tokenized already: ids as the model's tokenizer gives them, special ones included."""

    ids: tuple[tuple[int, ...], ...]


Body = Texts | TokenIds


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one request went, in microseconds: the supervisor's queue, the tokenizer, the model."""

    queue_us: int = 0
    tokenize_us: int = 0
    compute_us: int = 0
    cached: bool = False
    """The supervisor had the answer already: no worker was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """Header of a good ``embed`` answer. The vectors follow, little endian, row after row, as precisions.py has it."""

    id: int
    model: str
    count: int
    dim: int
    dtype: str
    """One of the precisions."""
    tokens: int
    """Tokens computed, special tokens and prompts included."""
    truncated: tuple[int, ...] = ()
    """Indices of the texts that were cut to the model's maximum."""
    timings: Timings = field(default_factory=Timings)
    poisoned: tuple[int, ...] = ()
    """Indices of the texts that were refused; their rows say nothing. Only where the request was ``partial``."""
    weights: str = ""
    """Stands for the weights and settings that the vectors follow from; empty from a daemon that does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Header of a good ``tokenize`` answer; two int32 frames follow: ids (text after text), lengths (count)."""

    id: int
    model: str
    count: int
    tokens: int
    truncated: tuple[int, ...] = ()
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Header of any other good answer; one frame follows: a msgpack map (docs/protocol.md has its keys, by op)."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorAnswer:
    """The request ended without its result. ``id`` is 0 when the request's own could not be read."""

    id: int
    code: str
    message: str
    retryable: bool = False
    retry_after_ms: int | None = None
    cause: tuple[str, ...] = ()
    details: Mapping[str, Detail] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not an answer: a sign of life to a client whose requests wait long. Its ``id`` on the wire is 0."""

    requests: int
    """Of this client that have not ended."""
    why: str | None = None
    """Of the one that waits longest for a model, for a person; None: they wait for their turn or their answer."""


Answer = Vectors | Tokens | Document | ErrorAnswer
