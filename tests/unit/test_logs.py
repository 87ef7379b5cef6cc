"""Log lines: one per event, readable by people and by machines."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embeddaemon.telemetry import logs
from embeddaemon.telemetry.logs import fields

log = logging.getLogger("embeddaemon.test")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger(logs.ROOT)
    before = (root.handlers, root.level, ours.level, logging.raiseExceptions)
    yield
    root.handlers, logging.raiseExceptions = before[0], before[3]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def lines(log_format: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.setup(log_format, level, stream)
    return stream


def test_text_line_has_time_level_event_and_fields() -> None:
    stream = lines("text")
    log.info(fields("worker_ready", worker=3, model="mini", seconds=0.12345678, pinned=True, why=None))
    line = stream.getvalue()
    assert line.endswith(" info worker_ready worker=3 model=mini seconds=0.123457 pinned=true why=-\n")
    assert line[10] == "T"
    assert line.split(" ")[0].endswith("Z")


def test_values_with_spaces_and_newlines_are_quoted_and_stay_on_one_line() -> None:
    stream = lines("text")
    log.warning(fields("load_failed", error='no "such"\nfolder', empty=""))
    assert stream.getvalue().endswith('load_failed error="no \\"such\\"\\nfolder" empty=""\n')
    assert stream.getvalue().count("\n") == 1


def test_json_line_keeps_the_types_and_our_own_keys() -> None:
    stream = lines("json")
    log.info(fields("worker_ready", worker=3, event="mine", nan=float("nan"), names=("a", "b"), odd=object))
    line = json.loads(stream.getvalue())
    assert (line["event"], line["event_"], line["worker"]) == ("worker_ready", "mine", 3)
    assert (line["nan"], line["names"], line["odd"]) == ("nan", ["a", "b"], "<class 'object'>")
    assert line["logger"] == "embeddaemon.test"


def test_traceback_is_a_field_of_json_and_indented_in_text() -> None:
    for log_format in ("json", "text"):
        stream = lines(log_format)
        try:
            int("no")
        except ValueError:
            log.exception(fields("request_failed"))
        if log_format == "json":
            assert "ValueError: invalid" in json.loads(stream.getvalue())["traceback"]
        else:
            assert "\n    ValueError: invalid" in stream.getvalue()


def test_level_holds_for_us_and_libraries_are_heard_from_warning_on() -> None:
    stream = lines("text", "debug")
    log.debug(fields("seen"))
    logging.getLogger("library").info("not %s", "seen")
    logging.getLogger("library").warning("broken %d", "format")
    assert "seen\n" in stream.getvalue()
    assert "not seen" not in stream.getvalue()
    assert "broken" in stream.getvalue()


def test_setup_again_replaces_the_handler() -> None:
    lines("text")
    stream = lines("text")
    log.info(fields("once"))
    assert stream.getvalue().count("once") == 1


def _pipe() -> tuple[int, int]:
    return os.pipe()


def _stream_socket() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def _terminal() -> tuple[int, int]:
    return os.openpty()


@contextmanager
def _logging_to(make: Callable[[], tuple[int, int]]) -> Iterator[int]:
    """The end at which the lines arrive; nothing is read there."""
    reading, writing = make()
    os.set_blocking(reading, False)
    try:
        with os.fdopen(writing, "w") as stream:
            logs.setup("text", "info", stream)
            yield reading
            logging.getLogger().handlers[0].close()
    finally:
        os.close(reading)


def _read_all(descriptor: int) -> str:
    parts = []
    while True:
        try:
            parts.append(os.read(descriptor, 65536))
        except BlockingIOError:
            return b"".join(parts).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("make", [_pipe, _stream_socket, _terminal])
def test_reader_that_takes_nothing_loses_lines_and_is_told_how_many(make: Callable[[], tuple[int, int]]) -> None:
    with _logging_to(make) as reading:
        for number in range(5_000):  # would wait for ever
            log.info(fields("told", number=number))
        before = _read_all(reading)
        log.info(fields("told", number=5_000))
        after = _read_all(reading)
    lines_told = (before + after).splitlines()
    numbers = [int(line.rpartition("=")[2]) for line in lines_told if " told " in line]
    assert numbers[:-1] == list(range(len(numbers) - 1))
    assert numbers[-1] == 5_000
    assert f" warning log_lines_lost count={5_001 - len(numbers)}\n" in after
    assert len(lines_told) == len(numbers) + 1


def test_line_that_went_out_in_part_is_finished_before_the_next() -> None:
    with _logging_to(_pipe) as reading:
        log.info(fields("long", a="x" * 200_000))
        told = ""
        while not told.endswith("next\n"):
            told += _read_all(reading)
            log.info(fields("next"))
            told += _read_all(reading)
    assert told.count("x") == 200_000 + 1  # and one in "next"
    assert told.count("\n") == 2 + told.count("log_lines_lost")


def test_forked_process_does_not_tell_what_its_parent_lost_or_left_in_part() -> None:
    with _logging_to(_pipe) as reading:
        log.info(fields("long", a="x" * 200_000))
        log.info(fields("lost"))
        told = _read_all(reading)
        if (child := os.fork()) == 0:
            log.info(fields("child"))
            os._exit(0)
        os.waitpid(child, 0)
        told += _read_all(reading)
        while not told.endswith("next\n"):
            log.info(fields("next"))
            told += _read_all(reading)
    assert told.count(" info child\n") == 1
    assert told.count("log_lines_lost") == 1
    assert told.count("x") == 200_000 + told.count("next")


def test_reader_that_is_gone_disturbs_nobody() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        logs.setup("text", "info", stream)
        os.close(reading)
        for _ in range(3):
            log.info(fields("told"))
        logging.getLogger().handlers[0].close()
    log.info(fields("told"))  # nor one that was closed


def test_process_without_standard_error_logs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    logs.setup("text", "info")
    log.info(fields("told"))
    assert [type(each) for each in logging.getLogger().handlers] == [logging.NullHandler]


def test_setup_again_closes_what_the_first_opened() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    with _logging_to(_pipe):
        assert descriptors() == before + 3
        logs.setup("text", "info", io.StringIO())
        assert descriptors() == before + 2
