"""Texts for ``bench``: prose that every Python has or the user's own, without end and without repeats."""

from __future__ import annotations

import ast
import functools
import hashlib
import itertools
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from embeddaemon.cli.texts import read_jsonl, read_lines
from embeddaemon.errors import InvalidInput

MAX_TEXTS = 20_000
"""Read of a file: enough that most runs send none twice, and little memory."""

_SHORT_WORDS = range(4, 13)
_PROSE_CHARACTERS = range(80, 1500)


@dataclass(frozen=True, slots=True)
class Texts:
    """What is embedded. Both have at least one text."""

    origin: str
    short: Sequence[str]
    """For calls of one text, as somebody types a query."""
    mixed: Sequence[str]
    """For calls of several."""


def own_texts(path: Path) -> Texts:
    """The first texts of a file, one per line or ``.jsonl``, for every kind of call. Raises InvalidInput, OSError."""
    read = read_jsonl if path.suffix.lower() in {".jsonl", ".ndjson"} else read_lines
    with path.open("rb") as file:
        texts = tuple(itertools.islice(read(file, str(path)), MAX_TEXTS))
    if not texts:
        raise InvalidInput(f"{path}: has no texts; every line is one text")
    return Texts(f"{path}, {len(texts)} texts", texts, texts)


@functools.cache
def built_in_texts() -> Texts:
    """Paragraphs, and sentences, of the standard library's docstrings. Raises InvalidInput where it has no source."""
    paragraphs = set(_paragraphs())
    sentences = {paragraph.split(". ")[0].rstrip(".") for paragraph in paragraphs}
    short = sorted((one for one in sentences if len(one.split()) in _SHORT_WORDS), key=_shuffled)
    mixed = sorted({one for one in paragraphs if len(one) in _PROSE_CHARACTERS}.difference(short), key=_shuffled)
    if not short or not mixed:
        raise InvalidInput("this Python comes without the source of its standard library: give texts with -i FILE")
    return Texts("docstrings of Python's standard library", short, mixed)


def without_repeats(texts: Sequence[str]) -> Iterator[str]:
    """Endless. From the second round on each text has a number behind it, so that no cache can answer it."""
    yield from texts
    for number in itertools.count(2):
        for text in texts:
            yield f"{text} ({number})"


def _shuffled(text: str) -> bytes:
    """Places that depend on the texts alone: every run, on every machine, takes them in the same order."""
    return hashlib.sha256(text.encode()).digest()


def _paragraphs() -> Iterator[str]:
    for path in Path(sysconfig.get_path("stdlib")).glob("*.py"):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    if _is_prose(paragraph):
                        yield " ".join(paragraph.split())


def _is_prose(text: str) -> bool:
    """Sentences, not signatures, tables or sessions."""
    letters = sum(character.isalpha() or character.isspace() for character in text)
    return ">>>" not in text and letters > 0.85 * len(text) > 0
