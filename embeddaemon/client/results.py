"""What the client hands out: vectors with their usage, what a model is, who the daemon is, whether it is well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddaemon.errors import ProtocolError
from embeddaemon.protocol.fields import Fields
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import Timings
from embeddaemon.protocol.numbers import read
from embeddaemon.protocol.precisions import PRECISIONS

FloatArray = NDArray[np.float32]
NumberArray = NDArray[Any]
"""Of vectors in a precision that was asked for: float16, int8 or uint8."""
IdArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embeddings:
    """Vectors and what they cost."""

    vectors: NumberArray
    """(texts, dim), in the order of the texts; (dim,) where a single string was given.

    Of the precision's dtype, float32 unless another was asked for; with ``binary`` and ``ubinary`` eight dimensions are
    in a number."""
    model: str
    weights: str = ""
    """Stands for the weights and settings that all of the vectors follow from: vectors with the same one may be
    compared. Empty for no texts."""
    tokens: int
    """Tokens computed, special tokens and prompts included."""
    truncated: tuple[int, ...] = ()
    """Indices of the texts that were cut to the model's maximum, ascending."""
    poisoned: tuple[int, ...] = ()
    """Indices of the texts that were refused because workers died of them, ascending: their rows are no vectors. Only
    with ``on_poisoned="nan"``."""
    timings: Timings = field(default_factory=Timings)
    """Microseconds in the daemon: the longest wait of a piece in the queue, the sums of tokenizing and computing;
    and whether any of it came out of the daemon's cache."""
    seconds: float = 0.0
    """From the first piece sent to the last one answered, as the client saw it."""
    precision: str = "float32"
    dimensions: int = 0
    """Of a vector, however it is written down."""
    ranges: FloatArray | None = None
    """With ``int8`` and ``uint8``: the values that the lowest and the highest number stand for, (2, dim). They follow
    from the model, the dimensions and the normalisation, not from the texts. None for no texts."""

    def as_float32(self) -> FloatArray:
        """The vectors as numbers to compute with, in the shape (texts, dim) or (dim,): what was rounded away is gone.

        Of 8 bits the middle of each step; of bits 1 and -1.
        """
        if not self.vectors.size:
            return np.empty((*self.vectors.shape[:-1], self.dimensions), np.float32)
        return read(self.vectors, PRECISIONS[self.precision], self.dimensions, self.ranges)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """One configured model. What only its files tell is None, or empty, while a hub model was never fetched."""

    name: str
    dimension: int | None = None
    """Length of its vectors."""
    whole_dimension: int | None = None
    """The same before the folder's ``truncate_dim`` cuts them."""
    max_tokens: int | None = None
    """Longer texts are cut, and reported."""
    dimensions: tuple[int, ...] = ()
    """Every value that ``dimensions=`` accepts."""
    tasks: tuple[str, ...] = ()
    """Every value that ``task=`` accepts."""
    default_task: str | None = None
    state: str = "unknown"
    """unknown (of the hub, never fetched), available, waiting (for memory), loading, ready, unloading or failed."""
    family: str | None = None
    pooling: tuple[str, ...] = ()
    normalize: bool | None = None
    """Whether the model itself gives vectors of unit length."""
    source: str | None = None
    precision: str | None = None
    device: str | None = None
    token_budget: int | None = None
    workers: int = 0
    estimate_bytes: int | None = None
    licence: str | None = None
    parameters: int | None = None
    notes: tuple[str, ...] = ()
    """What about it surprises people, as short sentences."""
    error: str | None = None
    """Why its state is failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What the daemon said in HELLO."""

    protocol: int
    version: str
    """Of the daemon's build."""
    instance: str
    """Random per daemon process: another one means that it was restarted."""
    pid: int | None = None
    default_model: str | None = None
    limits: Limits = field(default_factory=Limits)
    timeout_ms: int | None = None
    """The deadline of requests that bring none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelHealth:
    """One model, as the daemon sees it."""

    name: str
    state: str
    """As in ``ModelInfo``."""
    required: bool = False
    """Whether the configuration wants it there without anybody asking for it (``preload``, ``pinned``)."""
    ready: bool = True
    """Whether it is there, or would come when it is asked."""
    why: str | None = None
    """Why it is not ready."""
    loaded: bool = False
    queued: int = 0
    queue_full: bool = False
    """An ordinary request would be refused as busy now. The model works all the same."""
    oldest_wait_seconds: float = 0.0
    embedded: bool | None = None
    """Whether it turned a text into a proper vector; None: it was not asked to."""
    embedding_error: str | None = None
    """What was wrong then, or why it was not asked."""
    embedding_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether embedding works, asked of the daemon. ``bool(health)`` is ``health.ok``."""

    ok: bool
    """The daemon is ready, and no model that was asked for a vector failed."""
    model: str | None
    """The one that was asked about; None: all."""
    deep: bool
    """Whether texts were to be embedded by the models that are loaded."""
    message: str
    """What is wrong, or that nothing is."""
    live: bool = True
    """It answers."""
    ready: bool = True
    """It does what its configuration promises."""
    draining: bool = False
    why: tuple[str, ...] = ()
    """Everything that is wrong."""
    warnings: tuple[str, ...] = ()
    """What is no reason not to be ready, and somebody should mend."""
    error: str | None = None
    """The code of the error that came instead of an answer: nobody there, no such model, not for this user."""
    seconds: float = 0.0
    """That the slowest model took for a vector."""
    models: tuple[ModelHealth, ...] = ()

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True, slots=True)
class ModelList:
    """The answer of the ``models`` op."""

    default_model: str | None
    models: tuple[ModelInfo, ...]


def server_info(document: Mapping[str, Any]) -> ServerInfo:
    """The HELLO document. Unknown fields are passed over: a newer daemon may add some. Raises ProtocolError."""
    fields = Fields(document, "hello")
    return ServerInfo(
        protocol=fields.integer("v"),
        version=fields.text("version"),
        instance=fields.text("instance"),
        pid=fields.integer_or_none("pid"),
        default_model=fields.text_or_none("default_model"),
        limits=_limits(fields.mapping("limits", default={})),
        timeout_ms=fields.integer_or_none("timeout_ms"),
    )


def _limits(values: Mapping[str, Any]) -> Limits:
    fields, ours = Fields(values, "limits"), Limits()
    return Limits(
        max_texts=fields.integer("max_texts", default=ours.max_texts, low=1),
        max_text_bytes=fields.integer("max_text_bytes", default=ours.max_text_bytes, low=1),
        max_body_bytes=fields.integer("max_body_bytes", default=ours.max_body_bytes, low=1),
        max_ids=fields.integer("max_ids", default=ours.max_ids, low=1),
    )


def model_list(document: Mapping[str, Any]) -> ModelList:
    """The document of the ``models`` op. Raises ProtocolError."""
    fields = Fields(document, "models")
    models = fields.sequence("models")
    if not all(isinstance(model, dict) for model in models):
        raise ProtocolError("models: every model must be a map")
    return ModelList(fields.text_or_none("default_model"), tuple(_model_info(model) for model in models))


def _model_info(values: Mapping[str, Any]) -> ModelInfo:
    fields = Fields(values, "model")
    error = fields.mapping_or_none("error")
    return ModelInfo(
        name=fields.text("name"),
        dimension=fields.integer_or_none("dim"),
        whole_dimension=fields.integer_or_none("whole_dim"),
        max_tokens=fields.integer_or_none("max_tokens"),
        dimensions=_integers(fields, "dimensions"),
        tasks=_texts(fields, "tasks"),
        default_task=fields.text_or_none("default_task"),
        state=fields.text("state", default="unknown"),
        family=fields.text_or_none("family"),
        pooling=_texts(fields, "pooling"),
        normalize=None if values.get("normalize") is None else fields.boolean("normalize"),
        source=fields.text_or_none("source"),
        precision=fields.text_or_none("precision"),
        device=fields.text_or_none("device"),
        token_budget=fields.integer_or_none("token_budget"),
        workers=fields.integer_or_none("workers") or 0,
        estimate_bytes=fields.integer_or_none("estimate_bytes"),
        licence=fields.text_or_none("licence"),
        parameters=fields.integer_or_none("parameters"),
        notes=_texts(fields, "notes"),
        error=None if error is None else f"{error.get('code')}: {error.get('message')}",
    )


def health_of(document: Mapping[str, Any], model: str | None, *, deep: bool) -> Health:
    """The document of the ``health`` op. Raises ProtocolError."""
    fields = Fields(document, "health")
    models = tuple(_model_health(each) for each in fields.maps("models", default=[]))
    why = fields.texts("why", default=[])
    embedded = [each.name for each in models if each.embedded]
    well = f"embedded by {', '.join(embedded)}" if embedded else "ready; nothing was embedded" if deep else "ready"
    return Health(
        ok=fields.boolean("ok"),
        model=model,
        deep=deep,
        message="; ".join(why) or well,
        live=fields.boolean("live", default=True),
        ready=fields.boolean("ready"),
        draining=fields.boolean("draining", default=False),
        why=why,
        warnings=fields.texts("warnings", default=[]),
        seconds=max((each.embedding_seconds for each in models), default=0.0),
        models=models,
    )


def _model_health(values: Mapping[str, Any]) -> ModelHealth:
    fields = Fields(values, "health of a model")
    deep = Fields(fields.mapping_or_none("deep") or {}, "deep health of a model")
    return ModelHealth(
        name=fields.text("name"),
        state=fields.text("state"),
        required=fields.boolean("required", default=False),
        ready=fields.boolean("ready"),
        why=fields.text_or_none("why"),
        loaded=fields.boolean("loaded", default=False),
        queued=fields.integer("queued", default=0),
        queue_full=fields.boolean("queue_full", default=False),
        oldest_wait_seconds=fields.number("oldest_wait_seconds", default=0.0),
        embedded=None if deep.is_absent("ok") else deep.boolean("ok"),
        embedding_error=deep.text_or_none("why"),
        embedding_seconds=deep.number("seconds", default=0.0),
    )


def _integers(fields: Fields, key: str) -> tuple[int, ...]:
    return () if fields.is_absent(key) else fields.integers(key)


def _texts(fields: Fields, key: str) -> tuple[str, ...]:
    return () if fields.is_absent(key) else fields.texts(key)
