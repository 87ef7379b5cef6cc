"""What workers say about their memory, and how processes end that asked for more than there is."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embeddaemon.models.order import LoadOrder
from embeddaemon.protocol import control, link
from tests.support.checkpoints import TinyBert
from tests.support.embedding import card_of
from tests.support.processes import STUB_SPAWNED_WORKER, TORCH_FORK_SERVER, StandIn, embed
from tests.support.stub_engine import stub_card, stub_order
from tests.support.waiting import seconds

MIB = 1024 * 1024
CLOSE = 4 * MIB
NEVER_SECONDS = 1000.0

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from Linux's /proc")


@pytest.fixture
def stand_in(socket_folder: Path) -> Iterator[StandIn]:
    with StandIn(socket_folder) as one:
        yield one


class Worker:
    """One worker, its template, and what they wrote to standard error."""

    def __init__(self, stand_in: StandIn, order: LoadOrder, heartbeat_seconds: float = NEVER_SECONDS) -> None:
        server, self._process = stand_in.start_fork_server(stderr=subprocess.PIPE)
        server.receive(control.ForkServerReady, within_seconds=60)
        self.template, _ = stand_in.fork_template(server, order)
        self.template.receive(control.TemplateReady, within_seconds=60)
        self.template.send(stand_in.worker_command(heartbeat_seconds=heartbeat_seconds))
        self.pid = self.template.receive(control.Forked).pid
        self.ready = stand_in.receive(link.Ready)

    def limit(self, more_bytes: int) -> None:
        """What it has now is to grow by so much at most."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        held = 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
        resource.prlimit(self.pid, resource.RLIMIT_DATA, (held + more_bytes, held + more_bytes))

    def log(self) -> str:
        """All of it: the processes are gone then."""
        self._process.kill()
        assert self._process.stderr is not None
        return self._process.stderr.read().decode()


def trim(stand_in: StandIn) -> link.Heartbeat:
    """What the worker answers to it."""
    stand_in.router.send_multipart([link.routing_id(1, 1), link.encode_to_worker(link.Trim(1))])
    return stand_in.receive_heartbeat()


# -- what workers say --------------------------------------------------------------------------------------------------


def test_trimmed_worker_says_at_once_what_it_has_left(stand_in: StandIn) -> None:
    Worker(stand_in, stub_order())
    first, second = trim(stand_in), trim(stand_in)
    assert (first.trims, second.trims) == (1, 2)
    assert MIB < second.private_bytes <= second.peak_bytes
    assert second.device_bytes == 0


def test_every_heartbeat_says_what_the_worker_has_and_how_much_it_computed(stand_in: StandIn) -> None:
    Worker(stand_in, stub_order(), heartbeat_seconds=0.02)
    before = stand_in.receive_heartbeat()
    assert (before.tokens, before.trims) == (0, 0)
    stand_in.ask(embed(["eat 64MiB"]), embed(["two words"]))
    stand_in.receive_heartbeat()  # whose bytes may have been read while the worker still ate
    after = stand_in.receive_heartbeat()
    assert abs(after.private_bytes - before.private_bytes - 64 * MIB) < CLOSE
    assert after.peak_bytes >= after.private_bytes
    assert after.tokens == 3 + 4


def test_ready_worker_says_its_peak(stand_in: StandIn) -> None:
    ready = Worker(stand_in, stub_order()).ready
    assert 0 < ready.private_bytes <= ready.peak_bytes
    assert ready.device_bytes == 0


def test_worker_that_loads_for_itself_says_what_loading_took(stand_in: StandIn, tmp_path: Path) -> None:
    (tmp_path / "stub.json").write_text('{"load": "eat 64MiB"}')
    stand_in.start_spawned_worker(stand_in.worker_command(order=stub_order(stub_card(tmp_path))))
    ready = stand_in.receive(link.Ready)
    assert 64 * MIB < ready.private_bytes <= ready.peak_bytes < 64 * MIB + 128 * MIB


# -- no memory ---------------------------------------------------------------------------------------------------------


def test_worker_that_gets_no_memory_says_so_and_ends(stand_in: StandIn) -> None:
    worker = Worker(stand_in, stub_order())
    worker.limit(32 * MIB)
    assert stand_in.ask(embed(["eat 8MiB"]))[0].link.code == ""
    stand_in.dispatch(embed(["eat 64MiB"]))
    assert worker.template.receive(control.Exited).exit_code == control.EXIT_OUT_OF_MEMORY
    (line,) = [line for line in worker.log().splitlines() if "out_of_memory" in line]
    said = dict(part.split("=", 1) for part in line.split() if "=" in part)
    assert said["worker"] == "1.1"
    assert 8 * MIB < int(said["private_bytes"]) < 64 * MIB
    assert int(said["limit_bytes"]) > int(said["private_bytes"])


def test_error_for_want_of_memory_ends_the_worker_and_not_only_the_request(stand_in: StandIn) -> None:
    worker = Worker(stand_in, stub_order())
    stand_in.dispatch(embed(["raise memory"]))
    assert worker.template.receive(control.Exited).exit_code == control.EXIT_OUT_OF_MEMORY


def test_template_that_gets_no_memory_ends_with_the_same_code(stand_in: StandIn, tmp_path: Path) -> None:
    (tmp_path / "stub.json").write_text('{"load": "eat 4000MiB"}')
    server, process = stand_in.start_fork_server()
    server.receive(control.ForkServerReady)
    resource.prlimit(process.pid, resource.RLIMIT_DATA, (1024 * MIB, 1024 * MIB))
    template, _ = stand_in.fork_template(server, stub_order(stub_card(tmp_path)))
    assert server.receive(control.Exited).exit_code == control.EXIT_OUT_OF_MEMORY
    assert template.receive_any() is None


def test_spawned_worker_that_gets_no_memory_to_load_ends_with_the_same_code(stand_in: StandIn, tmp_path: Path) -> None:
    (tmp_path / "stub.json").write_text('{"load": "eat 4000MiB"}')
    program = ["sh", "-c", 'ulimit -d 1000000 && exec "$@"', "sh", *STUB_SPAWNED_WORKER]
    process = stand_in.start_spawned_worker(stand_in.worker_command(order=stub_order(stub_card(tmp_path))), program)
    assert process.wait(seconds(30)) == control.EXIT_OUT_OF_MEMORY


@pytest.mark.slow
def test_real_model_that_gets_no_memory_to_compute_ends_with_the_same_code(socket_folder: Path, tmp_path: Path) -> None:
    card = card_of(TinyBert(hidden=256, intermediate=8192).write(tmp_path))
    with StandIn(socket_folder, TORCH_FORK_SERVER) as stand_in:
        worker = Worker(stand_in, stub_order(card, token_budget=8192))
        assert stand_in.ask(embed(["red"]))[0].link.code == ""
        worker.limit(16 * MIB)  # 2,048 tokens are 32 MiB in the middle of a layer
        stand_in.dispatch(*[embed([f"red planet {number} " * 20 for number in range(200)]) for _ in range(4)])
        assert worker.template.receive(control.Exited, within_seconds=60).exit_code == control.EXIT_OUT_OF_MEMORY
        assert "out_of_memory" in worker.log()
