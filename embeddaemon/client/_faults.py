"""What the client says when a piece ends without its answer. Builds errors; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embeddaemon.client.results import ServerInfo, server_info
from embeddaemon.errors import DaemonUnreachable, Detail, EmbedDaemonError, Expired, ProtocolError, UnsupportedVersion
from embeddaemon.protocol import codec
from embeddaemon.protocol.limits import VERSION
from embeddaemon.protocol.messages import Answer, Document, ErrorAnswer


def nobody(endpoint: str, reason: str) -> DaemonUnreachable:
    """Nobody listens there."""
    return DaemonUnreachable(
        f"no daemon listens at {endpoint}: {reason}. Start one with `embeddaemon serve --endpoint {endpoint}`",
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
    return codec.raised(answer)


def error_of(answer: ErrorAnswer, offset: int) -> EmbedDaemonError:
    """The error of an answer, with the index that its text has in the call; its piece begins at ``offset``."""
    return at_offset(_mismatch_or(answer), offset)


def at_offset(error: EmbedDaemonError, offset: int) -> EmbedDaemonError:
    """An error about a text of the piece that begins at ``offset`` as one about the text of the call."""
    index = error.details.get("index")
    if not offset or not isinstance(index, int):
        return error
    message = error.message.replace(f"text {index}", f"text {index + offset}", 1)
    return renewed(error, message, details=error.details | {"index": index + offset})


def renewed(error: EmbedDaemonError, message: str, *, details: Mapping[str, Detail]) -> EmbedDaemonError:
    """The same error as another object: one exception raised in two places would share its traceback."""
    return type(error)(message, details=details, cause=error.cause, retry_after_ms=error.retry_after_ms)
