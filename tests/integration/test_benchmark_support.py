"""What the benchmarks stand on: clients that count what they get, and pages that were really copied."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import zmq

from benchmarks import _clients
from benchmarks._clients import ask_at_rate, ask_daemon, bodies_of
from benchmarks._pages import MIB, inherited, memory_of, tree_of
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
import mmap, os, sys
MIB = 2**20
memory = mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
def touch(start, end):
    for place in range(start * MIB, end * MIB, 4096):
        memory[place] += 1
touch(0, 8)
child = os.fork()
if child == 0:
    touch(0, 2)  # copied
    touch(8, 12)  # added
    print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_copied_pages_are_told_from_added_ones() -> None:
    with subprocess.Popen([sys.executable, "-c", _FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        found = inherited(child, parent.pid)
        own = memory_of(child).own
        assert tree_of(parent.pid) == [parent.pid, child]
        parent.communicate()
    copied, added = sum(found.copied.values()), sum(found.added.values())
    assert 2 * MIB <= copied < 3 * MIB  # and what Python itself wrote to
    assert 4 * MIB <= added < 5 * MIB
    assert own >= copied + added
