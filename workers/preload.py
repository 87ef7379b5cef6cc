"""The fork server: imports everything, computes nothing, proves it, then forks templates, fetchers and more.

``python -m embeddaemon.workers.preload --control-fd N --parent-pid P`` with the torch engine; another engine calls
``run_fork_server`` from a program of its own. The environment (threads of BLAS and of tokenizers, malloc's thresholds)
must be right before exec: it is the supervisor that sets it, and the thread count is the proof.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import assert_never

from embeddaemon.errors import FailedLoad, InternalError, ProtocolError
from embeddaemon.protocol import control
from embeddaemon.protocol.error_codec import error_to_map
from embeddaemon.telemetry.logs import fields, setup
from embeddaemon.workers import guard, main, measure
from embeddaemon.workers.exhaustion import exit_out_of_memory, is_out_of_memory
from embeddaemon.workers.forking import Forker, Midwife
from embeddaemon.workers.loading import load_error
from embeddaemon.workers.program import EngineProgram, torch_program
from embeddaemon.workers.template import report_failure, run_template

log = logging.getLogger(__name__)


def run_fork_server(argv: Sequence[str], program: EngineProgram) -> int:
    """The fork server's life; the exit code of a failed preload is all that it ever returns."""
    parser = argparse.ArgumentParser(prog="embeddaemon.workers.preload", description="The fork server of embeddaemon.")
    parser.add_argument("--control-fd", type=int, required=True, help="the control socket, a Unix SOCK_SEQPACKET")
    parser.add_argument("--parent-pid", type=int, required=True, help="pid of the supervisor, as it knows it")
    main.add_log_options(parser)
    arguments = parser.parse_args(argv)
    guard.enter(guard.Role.FORK_SERVER, arguments.parent_pid)
    setup(arguments.log_format, arguments.log_level)
    connection = socket.socket(fileno=arguments.control_fd)
    connection.set_inheritable(False)
    try:
        modules = _preload(program)
    except Exception as error:
        if is_out_of_memory(error):
            exit_out_of_memory("fork-server", error)  # there may be room another time
        # Swallowed, this would make every worker slow or dead.
        log.exception(fields("preload_failed"))
        failure = load_error("what workers need", error)
        connection.send(control.encode(control.LoadFailed(error_to_map(failure))))
        return control.EXIT_LOAD_FAILED
    measure.settle()
    ready = control.ForkServerReady(os.getpid(), modules, guard.thread_count(), measure.private_bytes())
    connection.send(control.encode(ready))
    return Forker(connection, _midwife(program)).serve()


def _preload(program: EngineProgram) -> list[str]:
    asked = ["zmq", "msgpack", "numpy", *program.preload()]
    missing = [name for name in asked if name not in sys.modules]
    if missing:
        raise FailedLoad(f"preloaded, but not there: {', '.join(missing)}")
    threads = guard.thread_count()
    if threads != 1:
        raise InternalError(
            f"importing left {threads} threads in the fork server, which may fork only with one: "
            "are OPENBLAS_NUM_THREADS=1 and TOKENIZERS_PARALLELISM=false in its environment?"
        )
    return asked


def _midwife(program: EngineProgram) -> Midwife:
    def be_born(command: control.ToForker, passed: int | None) -> int:
        match command:
            case control.ForkTemplate():
                return run_template(_given(passed), command.order, program)
            case control.ForkFetcher():
                return _run_fetcher(_given(passed), command.source, program)
            case control.ForkWorker(order=None):
                raise ProtocolError("a worker forked from the fork server needs an order: it loads for itself")
            case control.ForkWorker():
                return main.run_loading_worker(command, program, passed)
            case _:
                assert_never(command)

    return be_born


def _given(passed: int | None) -> socket.socket:
    if passed is None:
        raise ProtocolError("the control socket of the child did not come with the command")
    return socket.socket(fileno=passed)


def _run_fetcher(connection: socket.socket, source: str, program: EngineProgram) -> int:
    try:
        folder = program.fetch(source)
    except Exception as error:  # the boundary of a process
        if is_out_of_memory(error):
            raise  # there may be room another time
        return report_failure(connection, load_error(source, error), error)
    connection.send(control.encode(control.Fetched(str(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(run_fork_server(sys.argv[1:], torch_program()))
