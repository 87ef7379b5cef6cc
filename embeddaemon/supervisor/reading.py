"""Messages of clients, as events for the core: frames in, what they say out. I/O, for what the door hands on."""

from __future__ import annotations

from embeddaemon.errors import ProtocolError
from embeddaemon.protocol import codec
from embeddaemon.protocol.limits import MAX_HEADER_BYTES
from embeddaemon.protocol.messages import Embed
from embeddaemon.supervisor.connections.front import Arrived, Left
from embeddaemon.supervisor.events import (
    ClientEvent,
    ClientGone,
    RequestMalformed,
    RequestReceived,
)
from embeddaemon.supervisor.requests.cache import MAX_CACHED_BODY_BYTES, digest

_REQUEST_FRAMES = 2
"""Header and body."""


def client_event(arrived: Arrived | Left, *, is_cached: bool) -> ClientEvent:
    """From a client; ``is_cached``: answers to what is small enough are kept, so its body is digested."""
    if isinstance(arrived, Left):
        return ClientGone(arrived.client)
    client, message, user = arrived.client, arrived.message, arrived.user
    if message.frames != _REQUEST_FRAMES:
        wrong = ProtocolError(f"a request is two frames, header and body, not {message.frames}")
        return RequestMalformed(client, 0, wrong)
    if message.header is None:
        wrong = ProtocolError(f"header has {message.header_bytes} bytes, the limit is {MAX_HEADER_BYTES}")
        return RequestMalformed(client, 0, wrong)
    header, body = memoryview(message.header), memoryview(b"" if message.body is None else message.body)
    try:
        request = codec.decode_request(header)
    except ProtocolError as error:
        return RequestMalformed(client, codec.request_id(header), error)
    is_kept = is_cached and isinstance(request, Embed) and message.body_bytes <= MAX_CACHED_BODY_BYTES
    kept_as = digest(body) if is_kept else None
    return RequestReceived(client, request, header, body, message.body_bytes, user.is_admin, kept_as, user=user.name)
