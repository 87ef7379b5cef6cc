"""A long text in pieces, and the pieces' tokens made into those of the whole text. Pure.

The tokens at either end of a piece may be others than in the text: what follows or what came before is missing. So a
piece begins with the end of the one before it, and they are joined where both have the same tokens, in the middle of
those.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding

from embeddaemon.workers.engines import Ids

_GAPS = frozenset(" \t\n\r\u3000\u3001\u3002\uff0c")
"""Before these a piece may end: spaces, and the commas and full stop of Chinese and Japanese. Not all that Python calls
a space: BERT deletes some control characters, and what stood around them is one word."""

_WORD_CHARACTERS = 1024
"""Where a piece would end, a gap is looked for so far back; without one it ends inside a word."""

_CONTEXT_CHARACTERS = 256
"""Of the piece before, with which a piece begins: several dozen tokens of prose in any language."""

_FEWEST_ALIKE = 8
"""Tokens in a row that two pieces have both, before they are joined there."""


class Piece(NamedTuple):
    """Characters of a text: it is its own from ``start`` to ``end``, and begins at ``since``."""

    since: int
    start: int
    end: int


class Token(NamedTuple):
    """A token and the characters of the text that it stands for."""

    id: int
    begin: int
    end: int


class Tokens(NamedTuple):
    """Of one piece."""

    ids: Ids
    head: list[Token]
    """The first ones: they begin in the piece before."""
    tail: list[Token]
    """The last ones: the next piece has them too."""


NO_TOKENS = Tokens(np.empty(0, dtype=np.int32), [], [])


def pieces(text: str, most_bytes: int) -> Iterator[Piece]:
    """In order. Each ends before a gap, wherever there is one, and is no longer than ``most_bytes`` of UTF-8.

    ``most_bytes`` must be several times what the context takes.
    """
    start = 0
    while start < len(text):
        since = max(0, start - _CONTEXT_CHARACTERS)
        window = text[since : since + most_bytes].encode()[:most_bytes]
        end = since + len(window.decode(errors="ignore"))  # not inside a character
        if end < len(text):
            # The first of several spaces: by their number tokenizers tell what is code.
            gaps = (place for place in range(end, max(start, end - _WORD_CHARACTERS), -1) if _is_gap(text, place))
            end = next(gaps, end)
        yield Piece(since, start, end)
        start = end


def tokens_of(encoding: Encoding, piece: Piece) -> Tokens:
    """The library's tokens of a piece, without special ones."""

    def token(index: int) -> Token:
        place = encoding.token_to_chars(index)
        assert place is not None, "a token of no place: bug"
        return Token(int(ids[index]), piece.since + place[0], piece.since + place[1])

    def begin_of(index: int) -> int:
        return token(index).begin

    # Where each of thousands of tokens lies would take more memory than the library takes.
    ids = np.array(encoding.ids, dtype=np.int32)
    everywhere = range(len(ids))
    own = bisect_left(everywhere, piece.start, key=begin_of)
    shared = bisect_left(everywhere, piece.end - _CONTEXT_CHARACTERS, key=begin_of)
    return Tokens(ids, [token(index) for index in everywhere[:own]], [token(index) for index in everywhere[shared:]])


def joined(before: Tokens, behind: Tokens) -> tuple[int, int]:
    """Up to which of its tokens a piece's predecessor has the text's, and from which of its own on the piece has."""
    alike, left, right = _longest_alike(before.tail, behind.head)
    if alike < _FEWEST_ALIKE:
        return len(before.ids), len(behind.head)
    return len(before.ids) - len(before.tail) + left + alike // 2, right + alike // 2


def _longest_alike(before: list[Token], behind: list[Token]) -> tuple[int, int, int]:
    """How many tokens in a row are the same in both, and where they begin in each."""
    longest = (0, 0, 0)
    left = right = alike = 0
    while left < len(before) and right < len(behind):
        one, other = before[left], behind[right]
        if one == other:
            alike += 1
            left, right = left + 1, right + 1
            longest = max(longest, (alike, left - alike, right - alike))
            continue
        alike = 0
        left, right = left + (one.begin <= other.begin), right + (other.begin <= one.begin)
    return longest


def _is_gap(text: str, place: int) -> bool:
    return text[place] in _GAPS and text[place - 1] not in _GAPS
