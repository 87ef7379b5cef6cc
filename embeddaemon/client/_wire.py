"""The socket of one connection: executes what the decider says, receives what came. Never waits, never decides."""

from __future__ import annotations

import os
import random
import socket
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import assert_never

import zmq

from embeddaemon.client._actions import Action, Close, Open, Patience, Probe, Send, Wake
from embeddaemon.client._core import ClientCore
from embeddaemon.client._window import Call
from embeddaemon.protocol import wire
from embeddaemon.protocol.endpoints import SYSTEM_SOCKET, checked, default_endpoint, socket_path

DealerSocket = zmq.Socket[bytes]


def endpoint_or_default(endpoint: str | None) -> str:
    """The endpoint that was given, else the one of the environment. Raises ConfigError."""
    if endpoint is not None:
        return checked(endpoint)
    # One that this user may not write to, or in a folder that he may not enter, is not there for him.
    return default_endpoint(os.environ, os.getuid(), system_socket_exists=os.access(SYSTEM_SOCKET, os.W_OK))


def reason_nobody_listens(path: Path) -> str | None:
    """Why a connection to a unix socket is refused; None when it is taken. Never waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:  # its backlog is full: somebody listens, and is busy
            return None
        except FileNotFoundError:
            return "there is no such socket"
        except ConnectionRefusedError:
            if not path.is_socket():
                return "what is there is no socket"
            return "the socket is left over, the process behind it is gone"
        except PermissionError:
            return "this user may not use the socket"
        except OSError as error:
            return str(error.strerror or error)
    return None


def dealer(context: zmq.Context[DealerSocket], endpoint: str) -> DealerSocket:
    """A new socket to the daemon; every option that matters is set here."""
    dealer_socket = context.socket(zmq.DEALER)
    dealer_socket.setsockopt(zmq.LINGER, 0)  # what is unsent when we close is wanted by nobody
    # Unlimited: windows bound what is in flight, and a full pipe would mean blocking or losing.
    dealer_socket.setsockopt(zmq.SNDHWM, 0)
    dealer_socket.setsockopt(zmq.RCVHWM, 0)
    dealer_socket.setsockopt(
        zmq.IMMEDIATE, 0
    )  # what is sent while libzmq connects waits in the pipe: sending never blocks
    dealer_socket.setsockopt(zmq.RECONNECT_IVL, 50)
    dealer_socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
    try:
        dealer_socket.connect(endpoint)
    except BaseException:
        dealer_socket.close()
        raise
    return dealer_socket


class Wire:
    """One DEALER socket and its decider. One owner at a time."""

    def __init__(
        self,
        context: zmq.Context[DealerSocket],
        endpoint: str,
        patience: Patience,
        *,
        clock: Callable[[], float],
        opened: Callable[[DealerSocket], None],
        closing: Callable[[DealerSocket], None],
    ) -> None:
        """``opened`` and ``closing`` tell the owner which socket to watch."""
        # Jitter needs no secrecy, and a generator of its own is not shared between threads.
        self.core = ClientCore(endpoint, patience, random.Random().random)  # noqa: S311
        self.clock = clock
        self._context = context
        self._endpoint = endpoint
        self._path = socket_path(endpoint)
        self._opened = opened
        self._closing = closing
        self._socket: DealerSocket | None = None

    def execute(self, actions: Sequence[Action]) -> list[Call]:
        """Do all of it, and what follows from it; the calls that have a new outcome."""
        woken: list[Call] = []
        to_do = deque(actions)
        while to_do:
            action = to_do.popleft()
            match action:
                case Send():
                    assert self._socket is not None, "something to send and no socket: bug"
                    wire.send(self._socket, (action.header, action.body))
                case Wake():
                    woken.append(action.call)
                case Open():
                    to_do.extend(self._open())
                case Probe():
                    reason = reason_nobody_listens(self._path)
                    now = self.clock()
                    to_do.extend(self.core.reachable(now) if reason is None else self.core.unreachable(reason, now))
                case Close():
                    self.close()
                case _:
                    assert_never(action)
        return woken

    def _open(self) -> list[Action]:
        reason = reason_nobody_listens(self._path)
        if reason is not None:
            return self.core.unreachable(reason, self.clock())
        self.close()
        self._socket = dealer(self._context, self._endpoint)
        self._opened(self._socket)
        return self.core.opened(self.clock())

    def receive_all(self) -> list[Call]:
        """Hand everything that has arrived to the decider; the calls that have a new outcome."""
        woken: list[Call] = []
        while self._socket is not None:
            frames = wire.receive(self._socket)
            if frames is None:
                break
            header, *behind = frames
            woken += self.execute(self.core.received([header.bytes, *(frame.buffer for frame in behind)], self.clock()))
        return woken

    def close(self) -> None:
        """Drop the socket, if there is one."""
        if self._socket is not None:
            closed, self._socket = self._socket, None
            self._closing(closed)
            closed.close()
