"""Texts from a file or standard input, one per line, read as needed: a million take no more memory than ten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

from embeddaemon.errors import InvalidInput

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Of one line: far above what a daemon takes as one text, far below what a file without line ends could cost."""

_BLOCK_BYTES = 1024 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(file: BinaryIO, name: str) -> Iterator[str]:
    """One text per line, without its line end. Raises InvalidInput naming the line that is empty or not UTF-8."""
    for number, line in _lines(file, name):
        if not line:
            raise InvalidInput(f"{name}, line {number}: is empty; every line is one text")
        yield line


def read_jsonl(file: BinaryIO, name: str) -> Iterator[str]:
    """The field ``text`` of one JSON object per line, without blank lines. Raises InvalidInput naming the line."""
    for number, line in _lines(file, name):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"{name}, line {number}: is not JSON: {error}") from error
        text = document.get("text") if isinstance(document, dict) else None
        if not isinstance(text, str) or not text:
            raise InvalidInput(
                f'{name}, line {number}: must be an object with the field "text", text that is not empty'
            )
        yield text


def count_lines(file: BinaryIO) -> int:
    """The lines from here on; leaves the file at its end."""
    count, last = 0, b"\n"
    while block := file.read(_BLOCK_BYTES):
        count += block.count(b"\n")
        last = block[-1:]
    return count + (last != b"\n")


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise InvalidInput(f"{name}, line {number}: is longer than {MAX_LINE_BYTES} bytes; one text per line")
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        try:
            yield number, line.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{name}, line {number}: is not UTF-8 text (byte {error.start} of the line)") from error
