"""Logs: one line per event with fields, as text for people or JSON for machines, on standard error.

    log.info(fields("worker_ready", worker=3, incarnation=1, model="mini"))
    2026-01-31T12:00:00.123Z info worker_ready worker=3 incarnation=1 model=mini
    {"time":"2026-01-31T12:00:00.123Z","level":"info","event":"worker_ready","logger":"…","worker":3,…}

A reader that takes no more loses lines, and nobody waits for it (log_output.py).

Never put text of users into a field. Tracebacks are indented below their line as text, and a field as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TextIO

from embeddaemon.telemetry.log_output import LogOutput

ROOT = "embeddaemon"
"""The logger above all of ours; libraries keep to the root logger, from WARNING on."""

Value = str | int | float | bool | None

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/@%+,-[]()<>*~#&;!?|")


class Event:
    """One log message: an event's name and its fields. Formatted only when somebody listens."""

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: dict[str, object]) -> None:
        self.name = name
        self.fields = fields

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={_text(value)}" for key, value in self.fields.items())])


def fields(event: str, /, **values: object) -> Event:
    """The message of a log call: the event in snake_case, then what it was about."""
    return Event(event, values)


def setup(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Sends the logs of this process to ``stream`` (standard error). Called again, it replaces what it did before.

    ``log_format`` is ``text`` or ``json``, ``level`` ``debug``, ``info``, ``warning`` or ``error``.
    """
    handler = _output_to(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    before, root.handlers = root.handlers, [handler]
    for each in before:
        if isinstance(each, LogOutput):
            each.close()
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level.upper())
    # A line that cannot be formatted must not end in a traceback on the same stream.
    logging.raiseExceptions = False


def _output_to(stream: TextIO | None) -> logging.Handler:
    """Where there is a descriptor, one that never waits for its reader. None: it was closed when we were started."""
    if stream is None:
        return logging.NullHandler()
    try:
        return LogOutput(stream.fileno(), _lines_lost)
    except (OSError, ValueError):  # no descriptor behind it, or a closed one
        return logging.StreamHandler(stream)


def _lines_lost(count: int) -> logging.LogRecord:
    return logging.getLogger(__name__).makeRecord(
        __name__, logging.WARNING, __file__, 0, fields("log_lines_lost", count=count), (), None
    )


class TextFormatter(logging.Formatter):
    """``TIME LEVEL event key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows indented."""
        line = f"{_timestamp(record)} {record.levelname.lower()} {_one_line(_message(record))}"
        if record.exc_info:
            trace = self.formatException(record.exc_info).replace("\n", "\n    ")
            line = f"{line}\n    {trace}"
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Our own keys first; a field of the same name gets an underscore."""
        message = record.msg
        line: dict[str, object] = {"time": _timestamp(record), "level": record.levelname.lower()}
        line["event"] = message.name if isinstance(message, Event) else _message(record)
        line["logger"] = record.name
        if isinstance(message, Event):
            line.update({f"{key}_" if key in line else key: _json(value) for key, value in message.fields.items()})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, separators=(",", ":"))


def _timestamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a library's wrong format string must not end the process that logs it
        return f"{record.msg!r} {record.args!r}"


def _one_line(text: str) -> str:
    return text if text.isprintable() else "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]


def _text(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.6g}"
        case int():
            return str(value)
        case _:
            text = str(value)
            return text if text and set(text) <= _PLAIN else json.dumps(text)


def _json(value: object) -> object:
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # NaN and infinity are no JSON
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    return str(value)
