"""The command line against a real daemon with the bundled model: every command, formats, exit codes, interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.support.sockets import short_folder
from tests.support.waiting import seconds, wait_until

pytestmark = pytest.mark.slow

MODEL = "all-MiniLM-L6-v2"
TEXTS = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The invoice is overdue."]


@dataclass(frozen=True)
class Daemon:
    """What tests need of the daemon under them."""

    endpoint: str
    log: Path
    environment: dict[str, str]

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "embeddaemon", *arguments]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.Popen(command, env=self.environment, **pipes)  # type: ignore[call-overload,no-any-return]  # options are Popen's own

    def run(self, *arguments: str, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [sys.executable, "-m", "embeddaemon", *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=seconds(90),
            check=False,
        )
        assert done.returncode == code, (done.returncode, done.stderr.decode(), self.log.read_text()[-2000:])
        return done


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with short_folder() as folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EMBEDDAEMON_")}
        marked = {name: value for name, value in os.environ.items() if name.startswith("EMBEDDAEMON_TEST_")}
        environment = kept | marked | {"EMBEDDAEMON_ENDPOINT": f"{folder}/s", "XDG_CONFIG_HOME": str(folder)}
        found = Daemon(f"ipc://{folder}/s", folder / "log", environment)
        with found.log.open("wb") as log:
            process = found.start("serve", "--log-format", "json", stdout=log, stderr=log)
        try:
            wait_until(lambda: (folder / "s").exists() or process.poll() is not None, 20, describe=found.log.read_text)
            found.run("load", MODEL)
            yield found
            process.send_signal(signal.SIGTERM)
            assert process.wait(seconds(30)) == 0, found.log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
                (folder / "s").unlink(missing_ok=True)


def test_texts_of_the_command_line_become_json_lines_and_nothing_else(daemon: Daemon) -> None:
    done = daemon.run("embed", *TEXTS)
    assert done.stderr == b""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    vectors = np.array([line["embedding"] for line in lines], np.float32)
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]


def test_every_way_in_and_out_gives_the_same_vectors(daemon: Daemon, tmp_path: Path) -> None:
    plain, jsonl = tmp_path / "t.txt", tmp_path / "t.jsonl"
    plain.write_text("\n".join(TEXTS) + "\n")
    jsonl.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    daemon.run("embed", "-i", str(plain), "-o", str(tmp_path / "a.npy"))
    daemon.run("embed", "-i", str(jsonl), "-o", str(tmp_path / "b.json"), "-m", MODEL)
    piped = daemon.run("embed", "--format", "npy", stdin=plain.read_bytes()).stdout
    (tmp_path / "c.npy").write_bytes(piped)
    wanted = np.load(tmp_path / "a.npy")
    document = json.loads((tmp_path / "b.json").read_text())
    assert (document["model"], document["count"], document["dimensions"]) == (MODEL, 3, 384)
    for found in (np.array(document["embeddings"], np.float32), np.load(tmp_path / "c.npy")):
        assert np.sum(wanted * found, axis=1).min() > 0.9999


def test_texts_that_were_cut_are_told_of(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text("short\n" * 70 + "word " * 600 + "\nshort\n")
    done = daemon.run("embed", "-i", str(file), "-o", str(tmp_path / "v.npy"))
    notes = done.stderr.decode().splitlines()
    assert notes[0].startswith("note: 1 text longer than the model takes and cut, the first is text 70;")
    assert notes[1].startswith("72 vectors written to ")


def test_text_that_is_refused_is_named_by_its_line(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text("short\n" * 70 + "word " * 600 + "\n")
    done = daemon.run("embed", "-i", str(file), "--no-truncate", code=1)
    assert f"error: {file}, line 71: text 70 has " in done.stderr.decode()


def test_no_texts_are_an_empty_matrix(daemon: Daemon, tmp_path: Path) -> None:
    daemon.run("embed", "-i", "-", "-o", str(tmp_path / "none.npy"))
    assert np.load(tmp_path / "none.npy").shape == (0, 384)


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (["embed", "-m", "nope", "x"], b"", "known are all-MiniLM-L6-v2"),
        (["embed", "--dimensions", "7", "x"], b"", "offered are 384"),
        (["embed", "--task", "nope", "x"], b"", "no task 'nope'"),
        (["embed", "--no-truncate", "word " * 5000], b"", "text 0"),
        (["embed", "fine", ""], b"", "text 1 is empty"),
        (["embed"], b"one\n\nthree\n", "standard input, line 2: is empty"),
        (["embed"], b"\xff\n", "line 1: is not UTF-8"),
        (["load", "nope"], b"", "unknown model 'nope'"),
        (["unload", "nope"], b"", "unknown model 'nope'"),
    ],
)
def test_refused_request_is_one_line_and_code_1(daemon: Daemon, arguments: list[str], stdin: bytes, words: str) -> None:
    done = daemon.run(*arguments, stdin=stdin, code=1)
    assert words in done.stderr.decode()
    assert done.stderr.decode().startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_status_ps_and_models_show_the_loaded_model(daemon: Daemon) -> None:
    status = json.loads(daemon.run("status", "--json").stdout)
    assert status["memory"]["leased_bytes"] > 0
    assert [worker["model"] for worker in status["workers"]] == [MODEL]
    shown = daemon.run("status").stdout.decode()
    for word in (MODEL, "ready", "HEADROOM", "answered", "cancelled", "fork-server", "supervisor"):
        assert word in shown
    document = json.loads(daemon.run("ps", "--json").stdout)
    listed = daemon.run("ps").stdout.decode()
    assert str(document["workers"][0]["pid"]) in listed
    assert [str(process["pid"]) for process in document["processes"]] == [
        line.split()[3] for line in listed.splitlines()[1:]
    ]
    assert [line.split()[0] for line in listed.splitlines()[1:]] == ["supervisor", "fork-server", "template", "worker"]
    models = json.loads(daemon.run("models", "--json").stdout)
    assert (models["default_model"], models["models"][0]["dimension"]) == (MODEL, 384)
    assert f"{MODEL} *" in daemon.run("models").stdout.decode()


def test_unload_gives_the_memory_back_and_the_next_request_loads_again(daemon: Daemon) -> None:
    assert b"is unloaded" in daemon.run("unload", MODEL).stderr
    assert json.loads(daemon.run("ps", "--json").stdout)["workers"] == []
    daemon.run("embed", "x")
    assert len(json.loads(daemon.run("ps", "--json").stdout)["workers"]) == 1


def test_reader_that_leaves_ends_the_command_quietly(daemon: Daemon, tmp_path: Path) -> None:
    many = tmp_path / "many.txt"
    many.write_text("a short text\n" * 5000)
    process = daemon.start("embed", "-i", str(many))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(seconds(60)) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_embed_leaves_the_old_file_and_no_other(
    daemon: Daemon, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    target = tmp_path / "out.npy"
    target.write_bytes(b"old")
    process = daemon.start("embed", "-o", str(target), "--progress", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"a text\n" * 2000)  # and no end: it waits for more
    process.stdin.flush()
    wait_until(lambda: any(one.suffix == ".part" and one.stat().st_size > 10_000 for one in tmp_path.iterdir()), 60)
    process.send_signal(number)
    errors = process.communicate(timeout=seconds(30))[1].decode()
    assert process.returncode == code, errors
    assert [one.name for one in tmp_path.iterdir()] == ["out.npy"]
    assert target.read_bytes() == b"old"
    assert "Traceback" not in errors


def test_memory_of_embed_does_not_grow_with_the_input(daemon: Daemon, tmp_path: Path) -> None:
    process = daemon.start("embed", "-o", str(tmp_path / "out.npy"), stdin=subprocess.PIPE)
    assert process.stdin is not None
    stdin, observed = process.stdin, psutil.Process(process.pid)

    def feed() -> None:
        stdin.write(b"text\n" * 20_000)
        stdin.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    seen: list[tuple[int, int]] = []

    def is_over() -> bool:
        rows = sum(one.stat().st_size for one in tmp_path.iterdir()) // (4 * 384)
        if process.poll() is None and rows > 1000:
            seen.append((rows, observed.memory_info().rss))
        return process.poll() is not None

    wait_until(is_over, 120)
    feeder.join()
    process.stdin = None
    errors = process.communicate(timeout=seconds(60))[1].decode()
    assert process.returncode == 0, errors
    assert np.load(tmp_path / "out.npy", mmap_mode="r").shape == (20_000, 384)
    (first_rows, early), (last_rows, late) = seen[0], seen[-1]
    # Rows kept in memory would be 1.5 KiB each, 23 MiB in all.
    assert last_rows - first_rows > 15_000
    assert late - early < 8 * 1024**2


def test_doctor_finds_the_daemon_and_everything_it_needs(daemon: Daemon) -> None:
    done = daemon.run("doctor", "--json")
    checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["daemon"]["state"] == "ok"
    assert checks["daemon"]["more"][0].startswith("budget of ram: ")
    assert checks["fork server"]["state"] == "ok"
    assert "1 thread" in checks["fork server"]["found"]
    assert checks["bundled model"]["state"] == "ok"


def test_second_daemon_at_the_same_place_is_refused_as_configuration(daemon: Daemon) -> None:
    done = daemon.run("serve", code=2)
    assert daemon.endpoint.removeprefix("ipc://") in done.stderr.decode()
    daemon.run("embed", "the first goes on")


def test_log_is_one_json_object_per_line(daemon: Daemon) -> None:
    events = [json.loads(line)["event"] for line in daemon.log.read_text().splitlines()]
    assert events[:2] == ["hard_limits", "listening"]
    assert "worker_ready" in events
