"""What the benchmarks stand on: clients that count what they get, and pages that were really copied."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from benchmarks import _clients
from benchmarks._clients import ask_at_rate, ask_daemon, bodies_of
from embeddaemon.errors import Busy, WorkerCrashed
from embeddaemon.protocol import codec
from embeddaemon.protocol.messages import Body, Lane, Request, Waiting
from tests.support.fake_daemon import Fail, FakeDaemon
from tests.support.sockets import short_folder

BODIES = bodies_of([["one text"], ["and", "two more of them"]])


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with short_folder() as folder, FakeDaemon(f"ipc://{folder}/s") as running:
        yield running


def test_clients_count_every_answer_and_its_tokens(daemon: FakeDaemon) -> None:
    load = ask_daemon(daemon.endpoint, BODIES[:1], 4, 0.1, lane="bulk")
    assert len(load.seconds) == len(load.at_worker_seconds) > 4
    assert load.tokens == 2 * len(load.seconds)
    assert load.refused == 0
    assert {request.lane for request in daemon.embeds} == {Lane.BULK}


def test_no_more_requests_are_under_way_than_there_are_clients(daemon: FakeDaemon) -> None:
    load = ask_daemon(daemon.endpoint, BODIES, 3, 0.1)
    warm_up_and_last = 3 * (1 + 2)
    assert 0 <= len(daemon.embeds) - len(load.seconds) <= warm_up_and_last


def test_refusals_are_counted_apart(daemon: FakeDaemon) -> None:
    def refuse_every_other(_: Request, __: Body | None) -> Fail | None:
        return Fail(Busy("full", retry_after_ms=1)) if len(daemon.requests) % 2 else None

    daemon.behaviour = refuse_every_other
    load = ask_daemon(daemon.endpoint, BODIES, 1, 0.1)
    assert abs(load.refused - len(load.seconds)) <= 1
    assert load.refused > 0


def test_any_other_error_ends_the_benchmark(daemon: FakeDaemon) -> None:
    daemon.behaviour = lambda *_: Fail(WorkerCrashed("it died"))
    with pytest.raises(RuntimeError, match="it died"):
        ask_daemon(daemon.endpoint, BODIES, 2, 0.1)


def test_requests_at_a_rate_are_all_sent_and_all_answered(daemon: FakeDaemon) -> None:
    load = ask_at_rate(daemon.endpoint, BODIES, 200, 0.2)
    assert len(load.seconds) == len(daemon.embeds) == 40


def test_sign_of_life_is_no_answer() -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as ours, context.socket(zmq.PAIR) as theirs:
        ours.bind("inproc://sign-of-life")
        theirs.connect("inproc://sign-of-life")
        theirs.send_multipart([codec.encode_answer(Waiting(requests=3))])
        assert _clients._answer(ours) is None
        theirs.send_multipart([b"\x81\xa2id\x07", b"vectors"])
        assert _clients._answer(ours) == b"\x81\xa2id\x07"


_FAMILY = """
import json, mmap, os, sys
sys.path.insert(0, sys.argv[1])
from benchmarks._pages import MIB, inherited, memory_of, tree_of
memory = mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)  # a page is a page, not two mebibytes
def touch(start, end):
    for place in range(start * MIB, end * MIB, 4096):
        memory[place] += 1
touch(0, 8)
started, wait = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    touch(0, 2)  # copied
    touch(8, 12)  # added
    os.write(started[1], b"!")
    os.close(wait[1])
    os.read(wait[0], 1)
    os._exit(0)
os.read(started[0], 1)
found = inherited(child, os.getpid())
own, family = memory_of(child).own, tree_of(os.getpid())
os.close(wait[1])
os.waitpid(child, 0)
print(json.dumps([sum(found.copied.values()) / MIB, sum(found.added.values()) / MIB, own / MIB, child in family]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_copied_pages_are_told_from_added_ones() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _FAMILY, str(root)], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    copied, added, own, is_in_family = json.loads(done.stdout)
    assert 2 <= copied < 3  # and what Python itself wrote to
    assert 4 <= added < 5
    assert own >= copied + added - 0.1
    assert is_in_family
