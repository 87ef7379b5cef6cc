"""A worker's life: one model, two threads. *Intake* is the main one, *compute* the other; a dead one ends the process.

Forked from a template (the model is there), or from the fork server (it loads for itself), or, where forking cannot be
used, a fresh interpreter: ``python -m embeddaemon.workers.main --spawn --parent-pid P`` reads one command from stdin
(four bytes of length, big endian, then the packet of a ``control.ForkWorker`` with its order); then it is its lifeline.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

import zmq

from embeddaemon.errors import EmbedDaemonError, ProtocolError
from embeddaemon.models.order import order_from_map
from embeddaemon.protocol import control, link
from embeddaemon.protocol.error_codec import error_to_map
from embeddaemon.telemetry.logs import fields, setup
from embeddaemon.workers import guard, measure
from embeddaemon.workers.compute import Compute
from embeddaemon.workers.engines import device_memory
from embeddaemon.workers.exhaustion import is_out_of_memory
from embeddaemon.workers.forking import run_child
from embeddaemon.workers.intake import Intake
from embeddaemon.workers.loading import Loaded, load, load_error
from embeddaemon.workers.measure import Memory, Meter
from embeddaemon.workers.program import EngineProgram, torch_program
from embeddaemon.workers.screening import Screen

log = logging.getLogger(__name__)

_LINGER_MS = 2000
"""At the end, how long the last answers may take to reach the supervisor's socket."""


@dataclass(frozen=True, slots=True)
class _Sockets:
    """Made after the fork: no ZeroMQ context survives one."""

    context: zmq.Context[zmq.Socket[bytes]]
    intake: zmq.Socket[bytes]
    compute: zmq.Socket[bytes]


def _connect(command: control.ForkWorker) -> _Sockets:
    """The worker's two links. No high-water marks: credits bound what is under way; a result may never be dropped."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    intake_id = link.routing_id(command.worker, command.incarnation, command.secret)
    sockets = []
    for identity in (intake_id, link.compute_id(intake_id)):
        one = context.socket(zmq.DEALER)
        one.setsockopt(zmq.LINGER, _LINGER_MS)
        one.setsockopt(zmq.SNDHWM, 0)
        one.setsockopt(zmq.RCVHWM, 0)
        one.setsockopt(zmq.ROUTING_ID, identity)
        one.connect(command.endpoint)
        sockets.append(one)
    return _Sockets(context, *sockets)


def run_worker(command: control.ForkWorker, loaded: Loaded, journal: int | None, *, loads: int) -> int:
    """Serves with a model that is there already; returns the exit code. ``journal`` is a descriptor, ours now."""
    return _serve(command, loaded, _connect(command), journal, loads)


def run_loading_worker(command: control.ForkWorker, program: EngineProgram, journal: int | None) -> int:
    """Loads for itself, says how that went over the link, serves."""
    assert command.order is not None
    sockets = _connect(command)
    try:
        loaded = load(program, order_from_map(command.order))
    except Exception as error:  # the boundary of a process: told to the supervisor, which ends the requests
        if is_out_of_memory(error):
            raise  # there may be room another time
        _report_failure(command, sockets, load_error(str(command.order["card"].get("folder")), error), error)
        return control.EXIT_LOAD_FAILED
    measure.settle()
    return _serve(command, loaded, sockets, journal, loads=1)


def _report_failure(command: control.ForkWorker, sockets: _Sockets, error: EmbedDaemonError, raised: Exception) -> None:
    if error is not raised:
        log.error(fields("load_failed", worker=f"{command.worker}.{command.incarnation}"), exc_info=raised)
    failure = link.LoadFailed(command.worker, command.incarnation, error_to_map(error))
    sockets.intake.send(link.encode_from_worker(failure))
    sockets.context.destroy(_LINGER_MS)


def _serve(command: control.ForkWorker, loaded: Loaded, sockets: _Sockets, journal: int | None, loads: int) -> int:
    screen = Screen()
    compute = Compute(command, loaded, sockets.compute, screen, journal)
    compute.start()
    meter = Meter()
    sockets.intake.send(link.encode_from_worker(_ready(command, loaded, loads, meter.estimate())))
    Intake(command, loaded, sockets.intake, compute, meter, screen=screen).run()
    sockets.intake.close()
    sockets.context.term()
    return 0


def _ready(command: control.ForkWorker, loaded: Loaded, loads: int, memory: Memory) -> link.Ready:
    device = device_memory(loaded.model)
    peak_bytes = max(memory.peak_bytes, loaded.peak_bytes if loads else 0)
    return link.Ready(
        worker=command.worker,
        incarnation=command.incarnation,
        pid=os.getpid(),
        private_bytes=memory.private_bytes + device.unified_bytes,
        threads=command.threads,
        loads=loads,
        facts=loaded.facts if loads else None,
        peak_bytes=peak_bytes + device.unified_bytes,
        device_bytes=device.own_bytes,
    )


def spawned_worker(argv: Sequence[str], program: EngineProgram) -> NoReturn:
    """The whole life of a fresh interpreter as a worker."""
    parser = argparse.ArgumentParser(prog="embeddaemon.workers.main", description="A worker that is not forked.")
    parser.add_argument("--spawn", action="store_true", required=True, help="read the command from stdin")
    parser.add_argument("--parent-pid", type=int, required=True, help="pid of the supervisor, as it knows it")
    parser.add_argument("--journal-fd", type=int, help="the file of its journal, empty")
    add_log_options(parser)
    arguments = parser.parse_args(argv)
    guard.enter(guard.Role.WORKER, arguments.parent_pid)
    setup(arguments.log_format, arguments.log_level)
    run_child(lambda: _run_spawned_worker(program, arguments.journal_fd))


def _run_spawned_worker(program: EngineProgram, journal: int | None) -> int:
    command = _read_command(sys.stdin.buffer)
    guard.enter_cgroup(command.cgroup)
    guard.take_sent_faults()
    guard.exit_at_end_of_file(sys.stdin.fileno())
    program.preload()
    return run_loading_worker(command, program, journal)


def _read_command(stream: BinaryIO) -> control.ForkWorker:
    size = int.from_bytes(stream.read(4), "big")
    if not 0 < size <= control.MAX_PACKET_BYTES:
        raise ProtocolError(f"the command on stdin announces {size} bytes, the limit is {control.MAX_PACKET_BYTES}")
    command = control.decode(stream.read(size))
    if not isinstance(command, control.ForkWorker) or command.order is None:
        raise ProtocolError("the command on stdin must be a ForkWorker with an order")
    return command


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """How our processes log on stderr, which they share with the supervisor."""
    parser.add_argument("--log-format", choices=["text", "json"], default="text")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")


if __name__ == "__main__":
    spawned_worker(sys.argv[1:], torch_program())
