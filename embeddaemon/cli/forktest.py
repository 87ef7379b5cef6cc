"""Starts the fork server as the supervisor does and ends it when it is ready: the proof that workers can be born."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from embeddaemon.errors import FailedLoad
from embeddaemon.protocol import control, error_codec
from embeddaemon.supervisor.processes.living import environment

READY_WITHIN_SECONDS = 60.0

_THERE = Path(sys.prefix)
"""A folder that is there wherever the daemon is installed; nothing is written to it. The supervisor names its own."""


@dataclass(frozen=True, slots=True)
class Started:
    """A fork server that was ready."""

    seconds: float
    private_bytes: int
    threads: int


def start_fork_server() -> Started:
    """Raises FailedLoad with what it said, when it does not come up."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    begun = time.monotonic()
    with ours, theirs:
        command = [sys.executable, "-m", "embeddaemon.workers.preload"]
        command += ["--control-fd", str(theirs.fileno()), "--parent-pid", str(os.getpid())]
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment(_THERE)
        )
        try:
            theirs.close()
            return _ready(ours, begun)
        finally:
            process.kill()
            process.wait()


def _ready(connection: socket.socket, begun: float) -> Started:
    connection.settimeout(READY_WITHIN_SECONDS)
    try:
        packet = connection.recv(control.MAX_PACKET_BYTES)
    except TimeoutError:
        raise FailedLoad(f"the fork server was not ready within {READY_WITHIN_SECONDS:g} s") from None
    if not packet:
        raise FailedLoad("the fork server ended before it was ready")
    match control.decode(packet):
        case control.ForkServerReady() as ready:
            return Started(time.monotonic() - begun, ready.private_bytes, ready.threads)
        case control.LoadFailed() as failed:
            raise error_codec.error_from_map(failed.error)
        case other:
            raise FailedLoad(f"the fork server said {type(other).__name__} instead of being ready")
