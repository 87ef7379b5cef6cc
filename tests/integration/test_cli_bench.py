"""``embeddaemon bench`` against a daemon that answers at once: what it sends, what it says, how it ends."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from embeddaemon.cli.app import cli
from embeddaemon.cli.bench_load import Call, Phase
from embeddaemon.cli.bench_texts import built_in_texts, without_repeats
from embeddaemon.errors import WorkerCrashed
from embeddaemon.protocol import codec
from embeddaemon.protocol.messages import Body, Document, Embed, Lane, Request, Status, Texts
from tests.support.fake_daemon import Answer, Behaviour, Fail, FakeDaemon
from tests.support.sockets import short_folder
from tests.support.waiting import seconds, wait_until

SHORT_RUN = ("--seconds", "0.5", "--clients", "3")


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with short_folder() as folder, FakeDaemon(f"ipc://{folder}/s") as running:
        yield running


def bench(daemon: FakeDaemon, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["bench", *SHORT_RUN, "--endpoint", daemon.endpoint, *arguments])
    assert result.exit_code == code, result.output
    return result


def texts_sent(daemon: FakeDaemon) -> list[str]:
    return [text for body in daemon.bodies if isinstance(body, Texts) for text in body.texts]


def test_table_says_what_was_measured_and_of_what(daemon: FakeDaemon) -> None:
    lines = bench(daemon).stdout.splitlines()
    assert any("fake (bert), 8 dimensions" in line for line in lines)
    assert any("cpu, float32" in line for line in lines)
    assert any("embeddaemon 9.9.9" in line for line in lines)
    for name in ("1 text ", "8 texts", "32 texts", "3 clients", "bulk"):
        assert any(line.startswith(name) for line in lines), name


def test_json_has_every_figure(daemon: FakeDaemon) -> None:
    report = json.loads(bench(daemon, "--json").stdout)
    figures = {one["what"]: one for one in report["figures"]}
    assert list(figures) == ["1 text", "8 texts", "32 texts", "3 clients", "bulk"]
    assert [figures[name]["texts_per_call"] for name in ("1 text", "8 texts", "32 texts", "3 clients")] == [1, 8, 32, 1]
    for one in figures.values():
        assert 0 < one["p50_ms"] <= one["p90_ms"] <= one["p99_ms"]
        assert one["tokens_per_second"] > one["texts_per_second"] > 0
    assert report["model"]["name"] == "fake"
    assert not report["interrupted"]


def test_only_bulk_goes_in_the_bulk_lane(daemon: FakeDaemon) -> None:
    bench(daemon)
    lanes = [request.lane for request in daemon.embeds]
    first_bulk = lanes.index(Lane.BULK)
    assert set(lanes[:first_bulk]) == {Lane.INTERACTIVE}
    assert set(lanes[first_bulk:]) == {Lane.BULK}


def test_no_text_is_sent_twice_so_that_no_cache_answers(daemon: FakeDaemon) -> None:
    bench(daemon)
    sent = texts_sent(daemon)
    assert len(set(sent)) == len(sent) > 1000


def test_own_texts_are_the_only_ones_sent(daemon: FakeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"text": "one of mine"}\n{"text": "another of mine"}\n')
    assert f"{file}, 2 texts" in bench(daemon, "-i", str(file)).stdout
    assert all("of mine" in text for text in texts_sent(daemon))


def test_file_without_texts_is_refused(daemon: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "t.txt").touch()
    assert "has no texts" in bench(daemon, "-i", str(tmp_path / "t.txt"), code=1).stderr


def test_unknown_model_is_one_line(daemon: FakeDaemon) -> None:
    result = bench(daemon, "-m", "nobody", code=1)
    assert "nobody" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_texts_of_others_and_refusals_meanwhile_are_told(daemon: FakeDaemon) -> None:
    asked = itertools.count(1)

    def busy_with_others(request: Request, _: Body | None) -> Answer | None:
        """Between any two of its answers the daemon embedded 700 texts of somebody else, and refused two."""
        if not isinstance(request, Status):
            return None
        times = next(asked)
        status = {"counts": {"texts": len(texts_sent(daemon)) + 700 * times}, "requests": {"refused": 2 * times}}
        return Answer([codec.encode_answer(Document(id=request.id)), codec.encode_document(status)])

    daemon.behaviour = busy_with_others
    output = bench(daemon).stdout
    assert "others had 700 texts embedded" in output
    assert "refused meanwhile: 2 requests" in output


@pytest.mark.parametrize("lane", list(Lane))
def test_error_of_the_daemon_is_one_line_whichever_phase_it_ends(daemon: FakeDaemon, lane: Lane) -> None:
    daemon.behaviour = crash_in(lane)
    result = bench(daemon, code=1)
    assert result.stderr.splitlines() == ["error: the worker died"]


def crash_in(lane: Lane) -> Behaviour:
    def crash(request: Request, _: Body | None) -> Fail | None:
        return Fail(WorkerCrashed("the worker died")) if isinstance(request, Embed) and request.lane is lane else None

    return crash


def test_interruption_shows_what_was_measured_so_far(daemon: FakeDaemon) -> None:
    command = [sys.executable, "-m", "embeddaemon", "bench", "--seconds", "600", "--json"]
    process = subprocess.Popen(
        [*command, "--endpoint", daemon.endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        wait_until(lambda: len(daemon.embeds) > 3, 20)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=seconds(20))
    assert process.returncode == 130
    assert stderr == "interrupted\n"
    assert json.loads(stdout)["interrupted"] is True


def test_built_in_texts_are_prose_and_short_texts_are_short() -> None:
    texts = built_in_texts()
    assert len(texts.mixed) > 500
    assert len(texts.short) > 500
    assert all(4 <= len(text.split()) <= 12 for text in texts.short)


def test_texts_go_on_without_repeating_themselves() -> None:
    taken = list(itertools.islice(without_repeats(["a", "b"]), 6))
    assert taken[:2] == ["a", "b"]
    assert len(set(taken)) == 6


def call(start: float, end: float, texts: int = 1) -> Call:
    return Call(start=start, end=end, texts=texts, tokens=10 * texts, queue_ms=0, tokenize_ms=0, compute_ms=0)


def test_call_that_ends_late_counts_with_its_part() -> None:
    phase = Phase(start=0, until=10, calls=[call(0, 4, 40), call(4, 10, 60), call(8, 12, 40)], client_cpu_seconds=0)
    assert phase.per_second(lambda one: one.texts) == pytest.approx((40 + 60 + 20) / 10)
    assert phase.per_second(lambda one: one.tokens) == pytest.approx(120)


def test_percentiles_are_times_that_some_call_took() -> None:
    phase = Phase(start=0, until=1, calls=[call(0, ms / 1000) for ms in range(1, 101)], client_cpu_seconds=0)
    assert [round(phase.percentile_ms(percent)) for percent in (50, 90, 99)] == [50, 90, 99]
