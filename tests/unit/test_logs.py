"""Log lines: one per event, readable by people and by machines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

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
