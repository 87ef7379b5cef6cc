"""Fork server, templates and workers from birth to death, as the supervisor sees them on its control sockets."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embeddaemon.protocol import control, link
from tests.support.processes import HERE, StandIn, Tree, embed, is_dead, wait_for_death
from tests.support.stub_engine import stub_card, stub_order
from tests.support.waiting import seconds, wait_until


@pytest.fixture
def stand_in(socket_folder: Path) -> Iterator[StandIn]:
    with StandIn(socket_folder) as one:
        yield one


def told(folder: Path, how: str) -> Path:
    (folder / "stub.json").write_text(f'{{"load": "{how}"}}')
    return folder


# -- the fork server ---------------------------------------------------------------------------------------------------


def test_fork_server_proves_its_imports_and_its_one_thread(stand_in: StandIn) -> None:
    server, process = stand_in.start_fork_server()
    ready = server.receive(control.ForkServerReady)
    assert ready.pid == process.pid
    assert ready.threads == 1
    assert {"zmq", "msgpack", "numpy", "hashlib"} <= set(ready.modules)
    assert ready.private_bytes > 1024 * 1024


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("import error", "no_such_module_anywhere"),
        ("missing", "a_module_that_nobody_imported"),
        ("thread", "2 threads"),
    ],
)
def test_fork_server_that_cannot_preload_says_why_and_exits(stand_in: StandIn, failure: str, message: str) -> None:
    server, process = stand_in.start_fork_server({"EMBEDDAEMON_STUB_PRELOAD": failure}, stderr=subprocess.PIPE)
    failed = server.receive(control.LoadFailed)
    assert message in failed.error["message"]
    assert process.wait(seconds(5)) == control.EXIT_LOAD_FAILED
    assert process.stderr is not None
    assert message in process.stderr.read().decode()


def test_fork_server_that_gets_no_memory_to_preload_is_not_one_that_cannot(stand_in: StandIn) -> None:
    server, process = stand_in.start_fork_server({"EMBEDDAEMON_STUB_PRELOAD": "no memory"}, stderr=subprocess.PIPE)
    assert process.wait(seconds(5)) == control.EXIT_OUT_OF_MEMORY
    assert server.receive_any() is None
    assert process.stderr is not None
    assert "out_of_memory worker=fork-server" in process.stderr.read().decode()


def test_fork_server_whose_parent_is_gone_already_exits(stand_in: StandIn) -> None:
    _, process = stand_in.start_fork_server(parent_pid=2**22 - 1, stderr=subprocess.PIPE)
    assert process.wait(seconds(5)) == control.EXIT_ORPHANED


def test_fork_server_exits_at_end_of_file(stand_in: StandIn) -> None:
    server, process = stand_in.start_fork_server()
    server.receive(control.ForkServerReady)
    server.close()
    assert process.wait(seconds(5)) == 0


def test_fork_server_survives_the_keyboards_interrupt(stand_in: StandIn) -> None:
    server, process = stand_in.start_fork_server()
    server.receive(control.ForkServerReady)
    process.send_signal(signal.SIGINT)
    stand_in.fork_template(server)


def test_packet_that_is_no_command_ends_the_fork_server(stand_in: StandIn) -> None:
    server, process = stand_in.start_fork_server(stderr=subprocess.PIPE)
    server.receive(control.ForkServerReady)
    server.connection.send(control.encode(control.Fetched("/somewhere")))
    assert process.wait(seconds(5)) == control.EXIT_BUG


# -- templates ---------------------------------------------------------------------------------------------------------


def test_template_loads_once_and_says_what_it_measured(stand_in: StandIn, tmp_path: Path) -> None:
    server, _ = stand_in.start_fork_server()
    server.receive(control.ForkServerReady)
    template, forked = stand_in.fork_template(server, stub_order(stub_card(tmp_path)))
    ready = template.receive(control.TemplateReady)
    assert (ready.pid, ready.threads, ready.loads) == (forked.pid, 1, 1)
    assert ready.facts["engine"] == "stub"
    assert 0 < ready.private_bytes <= ready.peak_bytes
    stand_in.fork_worker(template, worker=1)
    stand_in.fork_worker(template, worker=2)
    assert (tmp_path / "stub_loads.txt").read_text().split() == [str(forked.pid)]


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("fail", "model_corrupt", "told to fail"),
        ("raise", "load_failed", "ZeroDivisionError"),
        ("nan", "load_failed", "not finite"),
        ("thread", "internal", "2 threads"),
    ],
)
def test_template_that_cannot_load_says_why_and_exits(
    stand_in: StandIn, tmp_path: Path, how: str, code: str, message: str
) -> None:
    server, _ = stand_in.start_fork_server()
    server.receive(control.ForkServerReady)
    template, forked = stand_in.fork_template(server, stub_order(stub_card(told(tmp_path, how))))
    failed = template.receive(control.LoadFailed)
    assert failed.error["code"] == code
    assert message in failed.error["message"]
    assert template.receive_any() is None
    exited = server.receive(control.Exited)
    assert (exited.child, exited.pid, exited.exit_code) == (forked.child, forked.pid, control.EXIT_LOAD_FAILED)


def test_template_that_crashes_while_loading_is_reaped_with_its_signal(stand_in: StandIn, tmp_path: Path) -> None:
    server, _ = stand_in.start_fork_server()
    server.receive(control.ForkServerReady)
    template, _ = stand_in.fork_template(server, stub_order(stub_card(told(tmp_path, "crash"))))
    assert template.receive_any() is None
    assert server.receive(control.Exited).exit_code == -signal.SIGABRT
    template, _ = stand_in.fork_template(server)
    template.receive(control.TemplateReady)


def test_template_dies_at_end_of_file_and_takes_its_worker_with_it(stand_in: StandIn) -> None:
    tree = stand_in.whole_tree()
    tree.template.close()
    wait_for_death([tree.worker_forked.pid])
    exited = tree.server.receive(control.Exited)
    assert (exited.child, exited.exit_code) == (tree.template_forked.child, 0)


def test_command_that_a_template_does_not_know_ends_the_child_and_not_the_template(stand_in: StandIn) -> None:
    tree = stand_in.whole_tree()
    tree.template.send(control.ForkFetcher(99, "hub:a/b"))
    assert tree.template.receive(control.Forked).child == 99
    assert tree.template.receive(control.Exited).exit_code == control.EXIT_BUG
    stand_in.fork_worker(tree.template, worker=2)


# -- fetchers ----------------------------------------------------------------------------------------------------------


def test_fetcher_says_where_the_model_is_and_exits(stand_in: StandIn) -> None:
    server, _ = stand_in.start_fork_server()
    server.receive(control.ForkServerReady)
    fetcher, _ = stand_in.fork_with_socket(server, lambda child: control.ForkFetcher(child, "hub:a/b"))
    assert fetcher.receive(control.Fetched).folder == "/fetched/a/b"
    assert server.receive(control.Exited).exit_code == 0


def test_fetcher_that_gets_no_memory_ends_with_the_code_that_says_so(stand_in: StandIn) -> None:
    server, _ = stand_in.start_fork_server()
    server.receive(control.ForkServerReady)
    fetcher, _ = stand_in.fork_with_socket(server, lambda child: control.ForkFetcher(child, "hub:large/b"))
    assert server.receive(control.Exited).exit_code == control.EXIT_OUT_OF_MEMORY
    assert fetcher.receive_any() is None


def test_fetcher_that_fails_says_why(stand_in: StandIn) -> None:
    server, _ = stand_in.start_fork_server()
    server.receive(control.ForkServerReady)
    fetcher, _ = stand_in.fork_with_socket(server, lambda child: control.ForkFetcher(child, "hub:missing/b"))
    assert fetcher.receive(control.LoadFailed).error["code"] == "model_not_found"
    assert server.receive(control.Exited).exit_code == control.EXIT_LOAD_FAILED


# -- workers -----------------------------------------------------------------------------------------------------------


def test_worker_of_a_template_is_ready_without_loading(stand_in: StandIn) -> None:
    server, _ = stand_in.start_fork_server()
    server.receive(control.ForkServerReady)
    template, _ = stand_in.fork_template(server)
    template.receive(control.TemplateReady)
    template.send(stand_in.worker_command(worker=4, incarnation=7))
    forked = template.receive(control.Forked)
    ready = stand_in.receive(link.Ready)
    assert (ready.worker, ready.incarnation, ready.pid, ready.loads, ready.facts) == (4, 7, forked.pid, 0, None)
    assert ready.private_bytes > 0


def test_worker_forked_from_the_fork_server_loads_for_itself(stand_in: StandIn) -> None:
    server, _ = stand_in.start_fork_server()
    server.receive(control.ForkServerReady)
    server.send(stand_in.worker_command(order=stub_order()))
    server.receive(control.Forked)
    ready = stand_in.receive(link.Ready)
    assert ready.loads == 1
    assert ready.facts is not None
    assert ready.facts["dim"] == 8
    assert stand_in.ask(embed(["text"]))[0].vectors.shape == (1, 8)


def test_worker_that_cannot_load_for_itself_says_why(stand_in: StandIn, tmp_path: Path) -> None:
    server, _ = stand_in.start_fork_server()
    server.receive(control.ForkServerReady)
    server.send(stand_in.worker_command(order=stub_order(stub_card(told(tmp_path, "fail")))))
    server.receive(control.Forked)
    assert stand_in.receive(link.LoadFailed).error["code"] == "model_corrupt"
    assert server.receive(control.Exited).exit_code == control.EXIT_LOAD_FAILED


def test_spawned_worker_serves_and_its_stdin_is_its_lifeline(stand_in: StandIn) -> None:
    process = stand_in.start_spawned_worker(stand_in.worker_command(order=stub_order()))
    ready = stand_in.receive(link.Ready)
    assert (ready.pid, ready.loads) == (process.pid, 1)
    assert stand_in.ask(embed(["text"]))[0].vectors.shape == (1, 8)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(seconds(5)) == control.EXIT_ORPHANED


def test_spawned_worker_that_cannot_load_says_why(stand_in: StandIn, tmp_path: Path) -> None:
    order = stub_order(stub_card(told(tmp_path, "raise")))
    process = stand_in.start_spawned_worker(stand_in.worker_command(order=order))
    assert stand_in.receive(link.LoadFailed).error["code"] == "load_failed"
    assert process.wait(seconds(5)) == control.EXIT_LOAD_FAILED


def test_drained_spawned_worker_exits_cleanly(stand_in: StandIn) -> None:
    process = stand_in.start_spawned_worker(stand_in.worker_command(order=stub_order()))
    stand_in.receive(link.Ready)
    stand_in.drain()
    stand_in.receive(link.Drained)
    assert process.wait(seconds(5)) == 0


@pytest.mark.parametrize(
    ("text", "exit_code"),
    [
        ("crash", -signal.SIGABRT),
        ("segv", -signal.SIGSEGV),
        ("exit 7", 7),
        ("die", control.EXIT_BUG),
    ],
)
def test_worker_that_dies_is_reaped_with_its_exit_code(stand_in: StandIn, text: str, exit_code: int) -> None:
    tree = stand_in.whole_tree()
    stand_in.dispatch(embed([text]))
    exited = tree.template.receive(control.Exited)
    assert (exited.child, exited.pid) == (tree.worker_forked.child, tree.worker_forked.pid)
    assert exited.exit_code == exit_code
    stand_in.fork_worker(tree.template, incarnation=2)


def test_worker_whose_intake_thread_fails_is_dead(stand_in: StandIn) -> None:
    tree = stand_in.whole_tree()
    stand_in.router.send_multipart([link.routing_id(1, 1), b"not a link message"])
    assert tree.template.receive(control.Exited).exit_code == control.EXIT_BUG


@pytest.mark.skipif(sys.platform != "linux", reason="the mask that tells them apart is Linux's")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGBUS])
def test_worker_that_is_sent_a_fault_ends_as_one_that_is_terminated(stand_in: StandIn, number: signal.Signals) -> None:
    tree = stand_in.whole_tree()
    os.kill(tree.worker_forked.pid, number)
    assert tree.template.receive(control.Exited).exit_code == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="the mask that tells them apart is Linux's")
def test_spawned_worker_that_is_sent_a_fault_ends_as_one_that_is_terminated(stand_in: StandIn) -> None:
    process = stand_in.start_spawned_worker(stand_in.worker_command(order=stub_order()))
    stand_in.receive(link.Ready)
    process.send_signal(signal.SIGSEGV)
    assert process.wait(seconds(5)) == -signal.SIGTERM


def test_stacks_of_a_fault_are_written_where_they_are_asked_for(stand_in: StandIn, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        server, _ = stand_in.start_fork_server({"PYTHONFAULTHANDLER": "1"}, stderr=log.fileno())
    server.receive(control.ForkServerReady)
    template, _ = stand_in.fork_template(server)
    template.receive(control.TemplateReady)
    stand_in.fork_worker(template)
    stand_in.dispatch(embed(["segv"]))
    assert template.receive(control.Exited).exit_code == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_worker_ends_at_once_when_it_is_terminated_or_killed(stand_in: StandIn, number: signal.Signals) -> None:
    tree = stand_in.whole_tree()
    os.kill(tree.worker_forked.pid, number)
    assert tree.template.receive(control.Exited).exit_code == -number


def test_stalled_worker_writes_its_stacks_when_asked(stand_in: StandIn) -> None:
    server, process = stand_in.start_fork_server(stderr=subprocess.PIPE)
    server.receive(control.ForkServerReady)
    template, _ = stand_in.fork_template(server)
    template.receive(control.TemplateReady)
    worker = stand_in.fork_worker(template)
    stand_in.receive_heartbeat()  # both threads are where they wait
    os.kill(worker.pid, signal.SIGUSR1)
    assert stand_in.ask(embed(["still serving"]))[0].link.code == ""
    process.kill()
    assert process.stderr is not None
    assert b"in _next" in process.stderr.read()


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="the kernel has no OOM scores")
def test_kernel_takes_workers_first_and_the_supervisor_last(stand_in: StandIn) -> None:
    tree = stand_in.whole_tree()
    scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (os.getpid(), *tree.pids)]
    assert scores == sorted(scores)
    assert len(set(scores)) == 4


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="no /proc")
def test_processes_have_names(stand_in: StandIn) -> None:
    tree = stand_in.whole_tree()
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in tree.pids]
    assert names == ["ed-fork-server", "ed-template", "ed-worker"]


# -- the death chain ---------------------------------------------------------------------------------------------------


def test_killed_template_takes_its_workers_with_it(stand_in: StandIn) -> None:
    tree = stand_in.whole_tree()
    second = stand_in.fork_worker(tree.template, worker=2)
    os.kill(tree.template_forked.pid, signal.SIGKILL)
    wait_for_death([tree.worker_forked.pid, second.pid])
    assert tree.server.receive(control.Exited).exit_code == -signal.SIGKILL


def test_killed_fork_server_takes_templates_and_workers_with_it(stand_in: StandIn) -> None:
    tree = stand_in.whole_tree()
    os.kill(tree.server_pid, signal.SIGKILL)
    wait_for_death(tree.pids[1:])
    assert tree.template.receive_any() is None
    assert tree.server.receive_any() is None


def test_killed_template_takes_a_worker_that_holds_the_gil_with_it(stand_in: StandIn, tmp_path: Path) -> None:
    tree = hold_the_gil(stand_in, tmp_path)
    os.kill(tree.template_forked.pid, signal.SIGKILL)
    wait_for_death([tree.worker_forked.pid])


def hold_the_gil(stand_in: StandIn, folder: Path) -> Tree:
    """A tree whose worker sits in native code with the GIL for a minute."""
    tree = stand_in.whole_tree(stub_order(stub_card(folder)))
    stand_in.dispatch(embed(["hold gil 60"]))
    wait_until((folder / "stub_obeyed.txt").exists, 5)
    return tree


def test_nothing_inherits_the_control_socket(stand_in: StandIn) -> None:
    """The supervisor sees a template's death at once as end-of-file, although its worker was forked from it."""
    tree = stand_in.whole_tree()
    os.kill(tree.worker_forked.pid, signal.SIGSTOP)
    os.kill(tree.template_forked.pid, signal.SIGKILL)
    assert tree.template.receive_any() is None
    wait_for_death([tree.worker_forked.pid])


def test_children_of_a_fork_server_that_ends_are_dead_before_long(stand_in: StandIn) -> None:
    tree = stand_in.whole_tree()
    tree.server.close()
    wait_for_death(tree.pids)
    assert all(is_dead(pid) for pid in tree.pids)


# -- a system that says no ---------------------------------------------------------------------------------------------

REFUSED_FORK = """
import os, sys
sys.path.insert(0, {root!r})
from embeddaemon.workers import forking, guard
from embeddaemon.workers.preload import run_fork_server
from tests.support.stub_engine import PROGRAM

{change}
sys.exit(run_fork_server(sys.argv[1:], PROGRAM))
"""
NO_MEMORY = """
def refuse():
    raise OSError(12, "Cannot allocate memory")
os.fork = refuse
"""
SECOND_THREAD = """
counts = iter([1, 1, 2])  # preloading counts, ready counts, then comes the fork
guard.thread_count = lambda: next(counts)
"""


NO_MEMORY_LEFT = """
real_fork = os.fork
children = []
def refuse():
    if children:
        raise MemoryError("told to")
    children.append(real_fork())
    return children[0]
os.fork = refuse
"""


def program(change: str) -> list[str]:
    return [sys.executable, "-c", REFUSED_FORK.format(root=str(HERE.parents[1]), change=change)]


def test_fork_that_the_system_refuses_is_reported_and_the_fork_server_lives(socket_folder: Path) -> None:
    with StandIn(socket_folder, program(NO_MEMORY)) as stand_in:
        server, _ = stand_in.start_fork_server(stderr=subprocess.PIPE)
        server.receive(control.ForkServerReady)
        for child in (1, 2):
            server.send(stand_in.worker_command(order=stub_order()))
            assert server.receive(control.Exited) == control.Exited(child, 0, control.EXIT_FORK_FAILED)


def test_fork_server_that_gets_no_memory_ends_with_the_code_that_says_so(socket_folder: Path) -> None:
    with StandIn(socket_folder, program(NO_MEMORY_LEFT)) as stand_in:
        server, process = stand_in.start_fork_server(stderr=subprocess.PIPE)
        server.receive(control.ForkServerReady)
        server.send(stand_in.worker_command(order=stub_order()))
        pid = server.receive(control.Forked).pid
        server.send(stand_in.worker_command(order=stub_order()))
        assert process.wait(seconds(5)) == control.EXIT_OUT_OF_MEMORY
        wait_for_death([pid])


def test_fork_server_with_a_second_thread_refuses_to_fork(socket_folder: Path) -> None:
    with StandIn(socket_folder, program(SECOND_THREAD)) as stand_in:
        server, process = stand_in.start_fork_server(stderr=subprocess.PIPE)
        server.receive(control.ForkServerReady)
        server.send(stand_in.worker_command(order=stub_order()))
        assert server.receive_any() is None
        assert process.wait(seconds(5)) == control.EXIT_BUG
        assert process.stderr is not None
        assert b"2 threads where a fork is coming" in process.stderr.read()
