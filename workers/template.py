"""A template: forked from the fork server, loads one model key once, with one thread, then waits and forks workers."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Any, NoReturn

from embeddaemon.errors import EmbedDaemonError, InternalError, ProtocolError
from embeddaemon.models.order import order_from_map
from embeddaemon.protocol import control
from embeddaemon.protocol.error_codec import error_to_map
from embeddaemon.telemetry.logs import fields
from embeddaemon.workers import guard, main, measure
from embeddaemon.workers.exhaustion import is_out_of_memory
from embeddaemon.workers.forking import Forker
from embeddaemon.workers.loading import Loaded, load, load_error
from embeddaemon.workers.program import EngineProgram

log = logging.getLogger(__name__)


def run_template(connection: socket.socket, order_map: Mapping[str, Any], program: EngineProgram) -> int:
    """A template's life; the exit code of a failed load is all that it ever returns."""
    program.use_one_thread()
    try:
        order = order_from_map(order_map)
        loaded = load(program, order)
        _check_one_thread()
    except Exception as error:  # the boundary of a process: told to the supervisor, which ends the requests
        if is_out_of_memory(error):
            raise  # there may be room another time
        return report_failure(connection, load_error(str(order_map.get("card", {}).get("folder")), error), error)
    measure.settle()
    private_bytes = measure.private_bytes()
    ready = control.TemplateReady(
        pid=os.getpid(),
        threads=guard.thread_count(),
        private_bytes=private_bytes,
        peak_bytes=max(private_bytes, loaded.peak_bytes),
        loads=1,
        load_seconds=loaded.seconds,
        facts=loaded.facts,
    )
    return _serve(connection, loaded, ready)


def _check_one_thread() -> None:
    threads = guard.thread_count()
    if threads != 1:
        raise InternalError(f"loading left {threads} threads in the template, which may fork only with one")


def _serve(connection: socket.socket, loaded: Loaded, ready: control.TemplateReady) -> NoReturn:
    def be_born(command: control.ToForker, passed: int | None) -> int:
        if not isinstance(command, control.ForkWorker) or command.order is not None:
            raise ProtocolError("a template forks workers of its own model and nothing else")
        return main.run_worker(command, loaded, passed, loads=0)

    connection.send(control.encode(ready))
    Forker(connection, be_born).serve()


def report_failure(connection: socket.socket, error: EmbedDaemonError, raised: Exception) -> int:
    """Tells the supervisor and gives the exit code. What we did not expect is logged with its traceback as well."""
    if error is not raised:
        log.error(fields("load_failed", pid=os.getpid()), exc_info=raised)
    connection.send(control.encode(control.LoadFailed(error_to_map(error))))
    return control.EXIT_LOAD_FAILED
