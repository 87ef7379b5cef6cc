"""What the client says when a piece ends without its answer. Builds errors; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embeddaemon.client.results import ServerInfo, server_info
from embeddaemon.errors import (
    Busy,
    DaemonUnreachable,
    Detail,
    EmbedDaemonError,
    Expired,
    Forbidden,
    ModelChanged,
    ProtocolError,
    UnsupportedVersion,
)
from embeddaemon.protocol import codec, error_codec
from embeddaemon.protocol.limits import VERSION
from embeddaemon.protocol.messages import Answer, Document, ErrorAnswer


def nobody(endpoint: str, reason: str, advice: str | None = None) -> DaemonUnreachable:
    """Nobody listens there; ``advice`` takes the place of ours where something else than a daemon is missing."""
    if advice is None and endpoint.startswith("tcp://"):
        advice = "See that its daemon runs with this tcp_endpoint and that the network lets you through"
    elif advice is None:
        advice = f"Start one with `embeddaemon serve --endpoint {endpoint}`"
    return DaemonUnreachable(
        f"no daemon listens at {endpoint}: {reason}. {advice}",
        details={"endpoint": endpoint},
    )


def forbidden(endpoint: str, *, is_local: bool) -> Forbidden:
    """The daemon refused us in the handshake, and would again."""
    if is_local:
        allow = (
            "Have this user put into the group of its socket (`usermod -aG GROUP USER`, then log in again), or named "
            "under users in [access] of its configuration"
        )
    else:
        allow = "Have your public key allowed there: `embeddaemon keys allow NAME PUBLIC`"
    return Forbidden(
        f"the daemon at {endpoint} does not serve this {'user' if is_local else 'key'}. {allow}",
        details={"endpoint": endpoint},
    )


def full(endpoint: str) -> Busy:
    """The daemon refused us in the handshake for now."""
    return Busy(
        f"the daemon at {endpoint} has all the connections that it, or this user, may have: close some, or see "
        "connections in [per_user] of its configuration",
        details={"endpoint": endpoint, "quota": "connections"},
        retry_after_ms=1000,
    )


def foreign(endpoint: str) -> DaemonUnreachable:
    """Handshakes of another kind: no keys where some are needed, or no ZeroMQ at all."""
    return DaemonUnreachable(
        f"what listens at {endpoint} does not speak as a daemon does there: it takes no keys, or is no embeddaemon",
        details={"endpoint": endpoint},
    )


def wrong_keys(endpoint: str) -> Forbidden:
    """The daemon breaks the handshake off and does not say why: it cannot read what we say."""
    return Forbidden(
        f"the daemon at {endpoint} breaks the handshake off: server_key is not its public key (`embeddaemon keys show` "
        "prints it there), or it takes no keys",
        details={"endpoint": endpoint},
    )


def mute(endpoint: str) -> DaemonUnreachable:
    """Somebody listens there and says nothing."""
    return DaemonUnreachable(
        f"{endpoint} takes connections and does not answer: the daemon hangs or starts very slowly, or what listens "
        "there is no embeddaemon. See its log, or start it again with `embeddaemon serve`",
        details={"endpoint": endpoint},
    )


def expired(endpoint: str, *, waited_seconds: float, quiet_seconds: float, why: str | None) -> Expired:
    """The daemon lives, and the deadline passed; ``why`` is what it last said that requests wait for."""
    details: dict[str, Detail] = {"waited_seconds": round(waited_seconds, 3)}
    no_answer = f"no answer within {waited_seconds:.3g} s from {endpoint}, silent for {quiet_seconds:.3g} s"
    if why is not None:
        return Expired(f"{no_answer}; the daemon said: {why}", details=details | {"why": why})
    return Expired(f"{no_answer}: give more time with timeout=, or less work", details=details)


def changed_in_stream(model: str, given: int) -> ModelChanged:
    """The next vectors of a stream would be of other weights than those that were given out."""
    return ModelChanged(
        f"model {model!r} changed while the call ran: the vectors of its first {given} texts, which were given out, "
        "are of the old weights (or settings), the next ones of the new. Ask again from the first text on",
        details={"model": model, "given": given},
    )


def changed_again(model: str) -> ModelChanged:
    """What was asked for again, since a model had changed, came of yet other weights."""
    return ModelChanged(
        f"model {model!r} changed more than once while the call ran: its vectors would be of several weights (or "
        "settings). Ask again",
        details={"model": model},
    )


def server_of(answer: Answer, behind: Sequence[bytes | memoryview]) -> ServerInfo:
    """Who answered HELLO. Raises what it said instead, and UnsupportedVersion when it speaks another version."""
    match answer:
        case ErrorAnswer():
            raise _mismatch_or(answer)
        case Document() if len(behind) == 1:
            server = server_info(codec.decode_document(behind[0]))
        case _:
            raise ProtocolError("hello was answered by something else than a document")
    if server.protocol != VERSION:
        raise _mismatch(server.protocol, f"embeddaemon {server.version}")
    return server


def _mismatch(theirs: int, who: str) -> UnsupportedVersion:
    older = "the client is older: upgrade it" if theirs > VERSION else "the daemon is older: upgrade and restart it"
    return UnsupportedVersion(
        f"the daemon ({who}) speaks protocol version {theirs}, this client speaks {VERSION}: {older}",
        details={"spoken": theirs},
    )


def _mismatch_or(answer: ErrorAnswer) -> EmbedDaemonError:
    spoken = answer.details.get("spoken")
    if answer.code == UnsupportedVersion.code and isinstance(spoken, int) and spoken != VERSION:
        return _mismatch(spoken, "its version is not known")
    return error_codec.raised(answer)


def error_of(answer: ErrorAnswer, offset: int) -> EmbedDaemonError:
    """The error of an answer, with the index that its text has in the call; its piece begins at ``offset``."""
    return at_offset(_mismatch_or(answer), offset)


def at_offset(error: EmbedDaemonError, offset: int) -> EmbedDaemonError:
    """An error about a text of the piece that begins at ``offset`` as one about the text of the call."""
    if not offset:
        return error
    index, indices = error.details.get("index"), error.details.get("indices")
    if isinstance(indices, list):
        moved = [offset + place for place in indices if isinstance(place, int)]
        message = error.message.replace(f"texts {_first(indices)}", f"texts {_first(moved)}", 1)
        return renewed(error, message, details=error.details | {"indices": moved})
    if not isinstance(index, int):
        return error
    message = error.message.replace(f"text {index}", f"text {index + offset}", 1)
    return renewed(error, message, details=error.details | {"index": index + offset})


def _first(indices: Sequence[object]) -> str:
    """As the daemon names several texts."""
    return ", ".join(map(str, indices[:5]))


def renewed(error: EmbedDaemonError, message: str, *, details: Mapping[str, Detail]) -> EmbedDaemonError:
    """The same error as another object: one exception raised in two places would share its traceback."""
    return type(error)(message, details=details, cause=error.cause, retry_after_ms=error.retry_after_ms)
