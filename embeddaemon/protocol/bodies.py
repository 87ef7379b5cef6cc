"""The body frame of a request: texts, or texts as token ids, within the limits that both sides keep.

Raises ProtocolError for what is no body, InputTooLarge for what breaks a limit, InvalidInput for what cannot be a text.
"""

from __future__ import annotations

from collections.abc import Sequence

from embeddaemon.errors import InputTooLarge, InvalidInput, ProtocolError
from embeddaemon.protocol.fields import pack, unpack
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import Body, Texts, TokenIds


def encode_texts(texts: Sequence[str], limits: Limits) -> bytes:
    """The body frame of texts. Raises InvalidInput (with ``index``) and InputTooLarge before anything is sent."""
    _check_count(len(texts), limits)
    try:
        body = pack({"texts": list(texts)})
    except (UnicodeEncodeError, TypeError) as error:
        raise _find_bad_text(texts) from error
    if len(body) > limits.max_text_bytes:
        _check_text_sizes(texts, limits)
    _check_body_size(len(body), limits)
    return body


def encode_ids(ids: Sequence[Sequence[int]], limits: Limits) -> bytes:
    """The body frame of texts given as token ids."""
    _check_count(len(ids), limits)
    body = pack({"ids": [[int(one) for one in text] for text in ids]})
    _check_body_size(len(body), limits)
    return body


def decode_body(body: bytes | memoryview, limits: Limits) -> Body:
    """The texts, or the ids, of a body frame."""
    _check_body_size(len(body), limits)
    values = unpack(
        body,
        max_bytes=limits.max_body_bytes,
        max_array=max(limits.max_ids, limits.max_texts * 2),
        max_map=4,
        what="body",
    )
    match sorted(values):
        case ["texts"]:
            return _decode_texts(values["texts"], limits)
        case ["ids"]:
            return _decode_ids(values["ids"], limits)
        case _:
            raise ProtocolError(f"body must have either 'texts' or 'ids', not {sorted(values)[:8]}")


def _decode_texts(texts: object, limits: Limits) -> Texts:
    if not isinstance(texts, list):
        raise InvalidInput("'texts' must be a list of strings")
    _check_count(len(texts), limits)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(f"text {index} is {type(text).__name__}, not a string", details={"index": index})
    _check_text_sizes(texts, limits)
    return Texts(tuple(texts))


def _decode_ids(ids: object, limits: Limits) -> TokenIds:
    if not isinstance(ids, list) or not all(isinstance(one, list) for one in ids):
        raise InvalidInput("'ids' must be a list of lists of integers")
    _check_count(len(ids), limits)
    for index, text in enumerate(ids):
        if not all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 2**31 for one in text):
            raise InvalidInput(f"ids of text {index} must be integers from 0 to 2**31-1", details={"index": index})
    return TokenIds(tuple(tuple(text) for text in ids))


def _check_count(count: int, limits: Limits) -> None:
    if count == 0:
        raise InvalidInput("no texts: a request needs at least one")
    if count > limits.max_texts:
        raise InputTooLarge(
            f"{count} texts in one request, the limit is {limits.max_texts}",
            details={"texts": count, "limit": limits.max_texts},
        )


def _check_body_size(size: int, limits: Limits) -> None:
    if size > limits.max_body_bytes:
        raise InputTooLarge(
            f"the body has {size} bytes, the limit is {limits.max_body_bytes}",
            details={"bytes": size, "limit": limits.max_body_bytes},
        )


def _check_text_sizes(texts: Sequence[str], limits: Limits) -> None:
    for index, text in enumerate(texts):
        # A character has at most 4 bytes: most texts need no encoding to be seen small enough.
        if len(text) * 4 > limits.max_text_bytes and len(text.encode()) > limits.max_text_bytes:
            raise InputTooLarge(
                f"text {index} has more than {limits.max_text_bytes} bytes",
                details={"index": index, "limit": limits.max_text_bytes},
            )


def _find_bad_text(texts: Sequence[object]) -> InvalidInput:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            return InvalidInput(f"text {index} is {type(text).__name__}, not a string", details={"index": index})
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return InvalidInput(
                f"text {index} has a lone surrogate at character {error.start}: it is not valid Unicode",
                details={"index": index, "character": error.start},
            )
    raise AssertionError("every text encodes, yet the body did not: bug")
