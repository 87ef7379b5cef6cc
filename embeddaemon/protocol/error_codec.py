"""Our errors as they travel: in the answer that ends a request, and as maps between our own processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embeddaemon.errors import Detail, EmbedDaemonError, chain, error_for
from embeddaemon.protocol.fields import Fields
from embeddaemon.protocol.messages import ErrorAnswer


def decode_error(id_: int, error: Mapping[str, Any]) -> ErrorAnswer:
    """The bad answer to request ``id_`` whose header holds this map. Raises ProtocolError."""
    fields = Fields(error, "error")
    return ErrorAnswer(
        id=id_,
        code=fields.text("code"),
        message=fields.text("message"),
        retryable=fields.boolean("retryable", default=False),
        retry_after_ms=fields.integer_or_none("retry_after_ms"),
        cause=fields.texts("cause", default=[]),
        details=fields.mapping("details", default={}),
    )


def error_answer(id_: int, error: EmbedDaemonError) -> ErrorAnswer:
    """An error as the answer that ends request ``id_``."""
    return ErrorAnswer(
        id=id_,
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        retry_after_ms=error.retry_after_ms,
        cause=chain(error),
        details=dict(error.details),
    )


def raised(answer: ErrorAnswer) -> EmbedDaemonError:
    """The error that a client raises for a bad answer."""
    details: dict[str, Detail] = dict(answer.details)
    return error_for(
        answer.code, answer.message, details=details, cause=answer.cause, retry_after_ms=answer.retry_after_ms
    )


def error_to_map(error: EmbedDaemonError) -> dict[str, Any]:
    """An error as a map, for the messages between our own processes."""
    return {
        "code": error.code,
        "message": error.message,
        "retry_after_ms": error.retry_after_ms,
        "cause": list(chain(error)),
        "details": dict(error.details),
    }


def error_from_map(values: Mapping[str, Any]) -> EmbedDaemonError:
    """What ``error_to_map`` made, as the error again."""
    return raised(decode_error(0, values))
