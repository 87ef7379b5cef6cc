"""The socket of our workers, and the secret by which they are known there. I/O.

Its file is for processes of our own user only. One of those that is no worker of ours, such as a program that tries the
wrong socket, can connect all the same. It does not know the secret that a worker gets with its order, which is part of
every worker's routing ids: so it takes nobody's place, gets nothing, and what it says is counted and dropped.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import zmq

from embeddaemon.errors import ProtocolError
from embeddaemon.protocol import link, wire
from embeddaemon.supervisor.connections.notes import Notes
from embeddaemon.supervisor.events import WorkerSaid

_SECRET_BYTES = 16
"""Twice as many characters, of the 255 that a routing id may have."""


class WorkerLink:
    """The workers' ROUTER, from ``Listener.open_link``."""

    def __init__(self, router: zmq.Socket[bytes]) -> None:
        self.socket = router
        self.secret = secrets.token_hex(_SECRET_BYTES)
        self._notes = Notes(time.monotonic)

    def send(self, worker: int, incarnation: int, frames: Sequence[Any]) -> None:
        """Never waits. Raises ZMQError when the worker is gone or does not read."""
        wire.send(self.socket, [link.routing_id(worker, incarnation, self.secret), *frames])

    def receive(self, most: int) -> Iterator[WorkerSaid]:
        """What workers have said, about ``most`` messages of it."""
        for _ in range(most):
            frames = wire.receive(self.socket)
            if frames is None:
                return
            if (said := self._said(frames)) is not None:
                yield said
            if not wire.is_readable(self.socket):
                return

    def _said(self, frames: list[zmq.Frame]) -> WorkerSaid | None:
        """None, counted and now and then in the log, for what is no message or not of whom it says it is."""
        try:
            message = link.decode_from_worker(frames[1].buffer)
        except (ProtocolError, IndexError) as error:
            self._notes.note("bad_worker_message", error=str(error))
            return None
        intake_id = link.routing_id(message.worker, message.incarnation, self.secret)
        if frames[0].bytes not in (intake_id, link.compute_id(intake_id)):
            self._notes.note("not_a_worker_of_ours", says=f"{message.worker}.{message.incarnation}")
            return None
        return WorkerSaid(message, frames[2:])

    def close(self) -> None:
        """Nothing waits to be sent to processes that are gone."""
        self.socket.close(linger=0)
