"""The one error tree. Every error that can reach a user is here, with its wire code and whether a retry makes sense.

    EmbedDaemonError
    ├── ConfigError                 the configuration is wrong                    config
    ├── ProtocolError               a message breaks the protocol                 malformed
    │   └── UnsupportedVersion      the peer speaks another version               unsupported_version
    ├── DaemonUnreachable           nobody answers at the endpoint                unreachable
    └── RequestError                one request ended without its result
        ├── Invalid                 asking again the same way cannot help
        │   ├── InvalidInput        texts, ids or an option are wrong             invalid_input
        │   ├── InputTooLarge       over an announced limit                       input_too_large
        │   ├── TextTooLong         longer than the model, truncate=False         text_too_long
        │   ├── UnknownModel        not configured; lists the known               unknown_model
        │   ├── UnknownTask         the model has no such task; lists them        unknown_task
        │   └── UnknownDimensions   not offered; lists the offered                unknown_dimensions
        ├── Refused                 said no before any work
        │   ├── Busy                the queue is full                             busy
        │   ├── Draining            the daemon (or the model) is stopping         draining
        │   ├── NoHeadroom          the memory budget does not allow it           no_headroom
        │   ├── BackingOff          the model failed lately, wait                 backing_off
        │   │   └── Quarantined     it failed again and again, wait longer        quarantined
        │   ├── Poisoned            texts that workers died of                    poisoned
        │   └── Forbidden           this user may not                             forbidden
        ├── Expired                 the deadline passed                           expired
        ├── Cancelled               the client withdrew it                        cancelled
        └── Failed                  accepted, then an error
            ├── WorkerCrashed       its workers died under it                     worker_crashed
            ├── BadOutput           the model gave vectors that are not finite    bad_output
            ├── InternalError       a fault of ours                               internal
            └── FailedLoad          the model could not be loaded                 load_failed
                ├── ModelNotFound   no such folder, package or repository         model_not_found
                ├── ModelGated      the hub wants a token or an agreement         model_gated
                ├── HubUnreachable  no network, and not in the cache              hub_unreachable
                ├── CorruptModel    files damaged or incomplete                   model_corrupt
                ├── UnsafeModel     files that everybody may change               model_unsafe
                ├── ModelChanged    files changed while read, or during a call    model_changed
                └── UnsupportedModel  a family or option that is not served       model_unsupported

Covers what is raised and what travels. How an error is laid out on the wire is in protocol/error_codec.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

Detail = str | int | float | bool | None | list[str] | list[int]


class EmbedDaemonError(Exception):
    """Base of all our errors.

    ``details`` holds the facts as data (``known``, ``index``, ``needed_bytes`` …), ``cause`` the chain of causes as
    text, nearest first, also when the original exceptions stayed in another process. ``retry_after_ms`` is a hint.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, Detail] | None = None,
        cause: Sequence[str] = (),
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Detail] = dict(details or {})
        self.cause: tuple[str, ...] = tuple(cause)
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        return self.message if not self.cause else f"{self.message} (caused by: {' <- '.join(self.cause)})"


class ConfigError(EmbedDaemonError, ValueError):
    """A setting is wrong; the message names where, which key, the value and what is allowed."""

    code = "config"


class ProtocolError(EmbedDaemonError):
    """A message breaks the protocol of docs/protocol.md."""

    code = "malformed"


class UnsupportedVersion(ProtocolError):
    """The peer speaks a protocol version that this side does not; upgrade the older one."""

    code = "unsupported_version"


class DaemonUnreachable(EmbedDaemonError, ConnectionError):
    """Nobody answers at the endpoint."""

    code = "unreachable"
    retryable = True


class RequestError(EmbedDaemonError):
    """One request ended without its result."""

    code = "request_error"


class Invalid(RequestError, ValueError):
    """The request is wrong; the same request will be wrong again."""

    code = "invalid_input"


class InvalidInput(Invalid):
    """Texts, token ids or an option are wrong; ``details["index"]`` names the text where there is one."""

    code = "invalid_input"


class InputTooLarge(Invalid):
    """More texts or bytes than the daemon announced in HELLO."""

    code = "input_too_large"


class TextTooLong(Invalid):
    """A text exceeds the model and ``truncate=False``; details: ``index``, ``tokens``, ``limit``."""

    code = "text_too_long"


class UnknownModel(Invalid):
    """No such model is configured; ``details["known"]`` lists those that are."""

    code = "unknown_model"


class UnknownTask(Invalid):
    """The model has no such task; ``details["known"]`` lists its tasks."""

    code = "unknown_task"


class UnknownDimensions(Invalid):
    """The model does not offer that many dimensions; ``details["offered"]`` lists them."""

    code = "unknown_dimensions"


class Refused(RequestError):
    """Said no before any work was done."""

    code = "refused"


class Busy(Refused):
    """The queue is full; come back after ``retry_after_ms``."""

    code = "busy"
    retryable = True


class Draining(Refused):
    """The daemon or the model is stopping and takes nothing new."""

    code = "draining"
    retryable = True


class NoHeadroom(Refused):
    """The memory budget does not allow it.

    Details: ``needed_bytes``, ``available_bytes``, ``limit_bytes``, ``limit_source``, ``device``.
    """

    code = "no_headroom"


class BackingOff(Refused):
    """The model's workers failed lately and are not started again before ``retry_after_ms``."""

    code = "backing_off"
    retryable = True


class Quarantined(BackingOff):
    """The model failed too often in a short time: it is left alone until ``retry_after_ms``, or ``load`` with force."""

    code = "quarantined"


class Poisoned(Refused):
    """Workers died of these texts, and none computes them again for a while.

    Details: ``indices`` of the texts, for how long: ``seconds_left``, and of what class the deaths by the first of
    them were: ``death``. Other texts are not concerned.
    """

    code = "poisoned"


class Forbidden(Refused):
    """Only the daemon's own user or root may do this."""

    code = "forbidden"


class Cancelled(RequestError):
    """The client withdrew the request before it was answered."""

    code = "cancelled"


class Expired(RequestError, TimeoutError):
    """The deadline passed before the answer; the message says what the request was waiting for."""

    code = "expired"
    retryable = True


class Failed(RequestError):
    """Accepted, then an error on our side."""

    code = "failed"


class WorkerCrashed(Failed):
    """The workers that held the request died under it."""

    code = "worker_crashed"


class BadOutput(Failed):
    """The model computed vectors that are not finite."""

    code = "bad_output"


class InternalError(Failed):
    """A fault of ours; the daemon's log has the traceback."""

    code = "internal"


class FailedLoad(Failed):
    """The model could not be loaded; the message names the path, ``cause`` why."""

    code = "load_failed"


class ModelNotFound(FailedLoad):
    """No such folder, package or hub repository."""

    code = "model_not_found"


class ModelGated(FailedLoad):
    """The hub wants a token or an accepted agreement for this repository."""

    code = "model_gated"


class HubUnreachable(FailedLoad):
    """The hub cannot be reached and the model is not in the local cache."""

    code = "hub_unreachable"
    retryable = True


class CorruptModel(FailedLoad):
    """The model's files are damaged or incomplete."""

    code = "model_corrupt"


class UnsafeModel(FailedLoad):
    """Everybody may change the model's files; the message names the path and says what to do."""

    code = "model_unsafe"


class ModelChanged(FailedLoad):
    """The model's files changed while they were read; the daemon reads them again when they are still.

    Also of a call whose vectors would be of two models, since its model changed while it was answered: ask again. A
    stream that gave vectors out says in ``details["given"]`` of how many texts.
    """

    code = "model_changed"
    retryable = True


class UnsupportedModel(FailedLoad):
    """A family, precision or device that is not served here."""

    code = "model_unsupported"


def _subclasses(cls: type[EmbedDaemonError]) -> list[type[EmbedDaemonError]]:
    return [cls] + [deep for child in cls.__subclasses__() for deep in _subclasses(child)]


_BY_CODE: dict[str, type[EmbedDaemonError]] = {cls.code: cls for cls in reversed(_subclasses(EmbedDaemonError))}
# The general class of a shared code gives way to the special one that owns it.
_BY_CODE.update({"invalid_input": InvalidInput, "internal": InternalError})

CODES: tuple[str, ...] = tuple(sorted(_BY_CODE))


def error_for(
    code: str,
    message: str,
    *,
    details: Mapping[str, Detail] | None = None,
    cause: Sequence[str] = (),
    retry_after_ms: int | None = None,
) -> EmbedDaemonError:
    """The error of a wire code; a code from a newer daemon becomes a plain RequestError that names it."""
    cls = _BY_CODE.get(code)
    if cls is None:
        return RequestError(f"{code}: {message}", details=details, cause=cause, retry_after_ms=retry_after_ms)
    return cls(message, details=details, cause=cause, retry_after_ms=retry_after_ms)


def chain(error: BaseException) -> tuple[str, ...]:
    """The causes of an error as text, nearest first, without the error itself; at most eight."""
    causes: list[str] = []
    seen = {id(error)}
    following = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while following is not None and id(following) not in seen and len(causes) < 8:
        seen.add(id(following))
        causes.append(f"{type(following).__name__}: {following}"[:500])
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    if isinstance(error, EmbedDaemonError):
        return (*error.cause, *causes)[:8]
    return tuple(causes)
