"""The kinds of values that a key can take: each turns what was written into a checked value or says what is allowed.

A kind is a function of the raw value that raises ``Wrong``; the message is completed with file and key by loading.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from enum import Enum
from typing import Any, TypeVar

from embeddaemon.config.given import Text
from embeddaemon.errors import ConfigError
from embeddaemon.governor.budget import parse_budget, parse_bytes
from embeddaemon.models.spec import AUTO_ESTIMATE, Pooling, WorkerBounds

Kind = Callable[[object], object]
E = TypeVar("E", bound=Enum)

MAX_WORKERS = 256
"""Of one model: far beyond the cores of a machine, small enough that a slip ("1000") is seen."""

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,15}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})")
_DURATION = re.compile(r"(?:(?:[0-9]{1,15}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})(?:ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ms|s|m|h)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_FORM = 'seconds, or text such as "500ms", "30s", "5m" or "1h30m"'
_DEVICE = re.compile(r"auto|cpu|mps|cuda(?::[0-9]{1,3})?")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class Wrong(Exception):
    """A value that its key does not take; the text says what is allowed. loading.py makes a ConfigError of it."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word, with what is known; ends a sentence."""
    known = sorted(known)
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known are {', '.join(known)}"


def text(value: object) -> str:
    """Text that is not empty and can be sent: valid Unicode without NUL."""
    if not isinstance(value, str) or not value:
        raise Wrong("must be text that is not empty")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise Wrong("must be valid Unicode text without NUL characters")
    return str(value)


def boolean(value: object) -> bool:
    """True or false; from a variable or a flag also yes, no, on, off, 1 and 0."""
    if isinstance(value, Text) and value.lower() in _TRUE + _FALSE:
        return value.lower() in _TRUE
    if isinstance(value, bool):
        return value
    raise Wrong("must be true or false")


def integer(low: int, high: int) -> Callable[[object], int]:
    """A whole number from ``low`` to ``high``."""

    def parse(value: object) -> int:
        if isinstance(value, Text) and _INTEGER.fullmatch(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Wrong(f"must be a whole number from {low} to {high}")
        return value

    return parse


def size(low: int, high: int) -> Callable[[object], int]:
    """Bytes from ``low`` to ``high``: a number, or text such as "8MiB"."""

    def parse(value: object) -> int:
        allowed = f'must be from {low} to {high} bytes, as a whole number or text such as "8MiB"'
        if low == 0 and (value == "0" or (value == 0 and type(value) is int)):
            return 0
        try:
            parsed = parse_bytes(value)
        except ConfigError as error:
            raise Wrong(allowed) from error
        if not low <= parsed <= high:
            raise Wrong(allowed)
        return parsed

    return parse


def budget(value: object) -> str | int:
    """A share of the real limit ("80%"), or bytes; what it comes to is decided where the limit is known."""
    try:
        parse_budget(value)
    except ConfigError as error:
        raise Wrong('must be a share such as "80%" (above 0%, at most 100%) or a size such as "8GiB"') from error
    assert isinstance(value, str | int), "parse_budget takes nothing else"
    return str(value) if isinstance(value, str) else value


def estimate(value: object) -> int | str:
    """``auto``, or the bytes of one worker: a positive size, so that nothing runs without a lease."""
    if value == AUTO_ESTIMATE:
        return AUTO_ESTIMATE
    try:
        return parse_bytes(value)
    except ConfigError as error:
        raise Wrong('must be "auto" or a positive size: a whole number of bytes or text such as "1.2GiB"') from error


def duration(low: float, high: float) -> Callable[[object], float]:
    """Seconds from ``low`` to ``high``, or text in the grammar of Ollama and Go."""

    def parse(value: object) -> float:
        seconds = _seconds(value)
        if seconds is None or not low <= seconds <= high:
            raise Wrong(f"must be from {low:g} to {high:g} seconds: {_DURATION_FORM}")
        return seconds

    return parse


def keep_alive(value: object) -> float:
    """A duration; 0 is not at all, anything negative for ever."""
    seconds = _seconds(value)
    if seconds is None:
        raise Wrong(f"must be {_DURATION_FORM}; 0 is not at all, -1 for ever")
    return math.inf if seconds < 0 else seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, str):
        written = value.strip()
        sign = -1.0 if written.startswith("-") else 1.0
        if _NUMBER.fullmatch(written):
            return float(written)
        if _DURATION.fullmatch(written.lstrip("+-")) and len(written) <= 64:
            parts = _DURATION_PART.findall(written)
            return sign * sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and abs(value) > 10**15:
        return None
    return float(value) if math.isfinite(value) else None


def chosen(*allowed: str) -> Callable[[object], str]:
    """One of some words."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise Wrong(f"must be one of {', '.join(allowed)}")
        return str(value)

    return parse


def member(of: type[E]) -> Callable[[object], E]:
    """One member of an enum, by its value."""
    choose = chosen(*(one.value for one in of))
    return lambda value: of(choose(value))


def device(value: object) -> str:
    """Where a model computes."""
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        raise Wrong("must be auto, cpu, cuda, cuda:N or mps")
    return str(value)


def sha256(value: object) -> str:
    """A digest in hexadecimal."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise Wrong("must be a SHA-256 digest, 64 hexadecimal digits")
    return value.lower()


def digests(value: object) -> str | Mapping[str, str]:
    """One digest, or a table of file name to digest where the weights are in several files."""
    if not isinstance(value, dict):
        return sha256(value)
    if not value:
        raise Wrong("must name the weights files, each with its SHA-256 digest")
    return {text(name): sha256(digest) for name, digest in value.items()}


def names(value: object) -> tuple[str, ...]:
    """Names or numbers of users or groups: a list, or from a variable text with commas."""
    many = [part.strip() for part in value.split(",")] if isinstance(value, Text) else value
    allowed = 'must be a list of names or numbers, as ["alice", "1001"]'
    if not isinstance(many, list) or len(many) > 1024:
        raise Wrong(allowed)
    if not all((isinstance(one, str) and one) or (type(one) is int and 0 <= one < 1 << 32) for one in many):
        raise Wrong(allowed)
    return tuple(text(str(one)) for one in many)


def pooling(value: object) -> tuple[Pooling, ...]:
    """One way of pooling, or several whose vectors are joined."""
    modes = value if isinstance(value, list) else [value]
    choose = chosen(*(mode.value for mode in Pooling))
    if not modes or len(modes) > len(Pooling):
        raise Wrong(f"must be one or several of {', '.join(mode.value for mode in Pooling)}")
    return tuple(Pooling(choose(mode)) for mode in modes)


def prompts(value: object) -> Mapping[str, str]:
    """A table of task name to the prompt put before each text."""
    if not isinstance(value, dict):
        raise Wrong('must be a table of task name to prompt, as { query = "query: ", document = "" }')
    for task, prompt in value.items():
        text(task)
        if prompt != "":  # a task without a prompt is an ordinary thing: a document beside its query
            text(prompt)
    return dict(value)


def dimensions(value: object) -> tuple[int, ...]:
    """Dimensions that the model offers beside its own, largest first."""
    if not isinstance(value, list) or not value or len(value) > 64:
        raise Wrong("must be a list of whole numbers, as [512, 256, 128]")
    sizes = tuple(integer(1, 1 << 20)(one) for one in value)
    if len(set(sizes)) != len(sizes):
        raise Wrong("must not name a dimension twice")
    return tuple(sorted(sizes, reverse=True))


def workers(value: object) -> WorkerBounds:
    """How many workers: a number, or a table of ``min`` and ``max``."""
    if isinstance(value, dict):
        return _bounds(value)
    count = integer(1, MAX_WORKERS)
    try:
        exactly = count(value)
    except Wrong:
        raise Wrong(f"must be a whole number from 1 to {MAX_WORKERS}, or a table as {{ min = 1, max = 4 }}") from None
    return WorkerBounds(min=exactly, max=exactly)


def _bounds(value: Mapping[str, Any]) -> WorkerBounds:
    for key in value:
        if key not in {"min", "max"}:
            raise Wrong(f"unknown key {key!r}: {did_you_mean(key, ('min', 'max'))}")
    count = integer(1, MAX_WORKERS)
    low = count(value.get("min", 1))
    high = count(value.get("max", low))
    if high < low:
        raise Wrong(f"min is {low} and max is {high}: max must be at least min")
    return WorkerBounds(min=low, max=high)
