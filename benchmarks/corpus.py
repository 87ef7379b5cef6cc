"""The texts of every benchmark: real prose of mixed lengths that every Python has, and short queries made from it.

Paragraphs of the standard library's docstrings, in an order that depends on nothing but the texts themselves. What it
cannot tell: how other languages, code or texts of one length would do; bench_throughput.py therefore sweeps lengths.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

_SHORTEST_CHARACTERS = 30
_SHORTEST_TEXT = 80
_LONGEST_CHARACTERS = 1500
_FOLDERS = ("", "asyncio", "concurrent/futures", "email", "http", "importlib", "json", "logging", "multiprocessing")
_FOLDERS_MORE = ("unittest", "urllib", "xml/dom", "xml/etree", "xmlrpc", "ctypes", "tkinter", "distutils", "idlelib")


@functools.cache
def prose() -> tuple[str, ...]:
    """Every different text, shuffled by digest: thousands, of about 10 to 350 tokens, 84 on average."""
    found = {text for path in _sources() for text in _texts(path) if len(text) >= _SHORTEST_TEXT}
    return tuple(sorted(found, key=_digest))


@functools.cache
def queries() -> tuple[str, ...]:
    """Short texts of 4 to 12 words, as people type them into a search: first sentences of the paragraphs."""
    firsts = {text.split(". ")[0].rstrip(".") for path in _sources() for text in _texts(path)}
    return tuple(sorted((text for text in firsts if 4 <= len(text.split()) <= 12), key=_digest))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _sources() -> Iterator[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    for folder in (*_FOLDERS, *_FOLDERS_MORE):
        yield from sorted((root / folder).glob("*.py"))


def _texts(path: Path) -> Iterator[str]:
    """Each docstring's prose; longer ones cut at paragraphs into several."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _joined(" ".join(part.split()) for part in (ast.get_docstring(node) or "").split("\n\n"))


def _joined(paragraphs: Iterable[str]) -> Iterator[str]:
    text = ""
    for paragraph in filter(_is_prose, paragraphs):
        if text and len(text) + len(paragraph) > _LONGEST_CHARACTERS:
            yield text
            text = ""
        text = f"{text} {paragraph}".lstrip()
    if text:
        yield text


def _is_prose(text: str) -> bool:
    """Sentences, not signatures, tables or interactive sessions."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return _SHORTEST_CHARACTERS <= len(text) <= _LONGEST_CHARACTERS and ">>>" not in text and letters > 0.85 * len(text)
