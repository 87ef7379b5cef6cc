"""The socket of one connection: executes what the decider says, receives what came. Never waits, never decides."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import assert_never

import zmq
from zmq.utils.monitor import parse_monitor_message

from embeddaemon.client import _faults as faults
from embeddaemon.client._actions import Action, Close, Open, Patience, Phase, Probe, Send, Wake
from embeddaemon.client._core import ClientCore
from embeddaemon.client._target import Target, advice_for, reason_nobody_listens
from embeddaemon.client._window import Call
from embeddaemon.protocol import wire

DealerSocket = zmq.Socket[bytes]

_NEVER = 400
"""ZAP's status for who may not come; another says not now."""

_BROKEN_OFF = 2
"""Handshakes that end without a reason: one may be a daemon that is just stopping."""

_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


def dealer(context: zmq.Context[DealerSocket], target: Target) -> DealerSocket:
    """A new socket for a daemon, not connected yet; every option that matters is set here."""
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
    if target.keys is not None:
        dealer_socket.setsockopt(zmq.CURVE_SERVERKEY, target.keys.server.encode())
        dealer_socket.setsockopt(zmq.CURVE_PUBLICKEY, target.keys.pair.public.encode())
        dealer_socket.setsockopt(zmq.CURVE_SECRETKEY, target.keys.pair.secret.encode())
    return dealer_socket


class Wire:
    """One DEALER socket and its decider. One owner at a time."""

    def __init__(
        self,
        context: zmq.Context[DealerSocket],
        target: Target,
        patience: Patience,
        *,
        clock: Callable[[], float],
        opened: Callable[[DealerSocket], None],
        closing: Callable[[DealerSocket], None],
    ) -> None:
        """``opened`` and ``closing`` tell the owner which sockets to watch."""
        # Jitter needs no secrecy, and a generator of its own is not shared between threads.
        self.core = ClientCore(target.endpoint, patience, random.Random().random)  # noqa: S311
        self.clock = clock
        self._context = context
        self._target = target
        self._opened = opened
        self._closing = closing
        self._socket: DealerSocket | None = None
        self._monitor: DealerSocket | None = None
        """Tells how the handshake ends: over the network what becomes of the connection too."""
        self._broken_off = 0

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
                    to_do.extend(self._probe())
                case Close():
                    self.close()
                case _:
                    assert_never(action)
        return woken

    def _probe(self) -> list[Action]:
        """See whether anybody listens. Over the network the events of the connection say so."""
        path = self._target.path
        if path is None:
            return [*self._events(), *self.core.reachable(self.clock())]
        reason = reason_nobody_listens(path)
        return self.core.reachable(self.clock()) if reason is None else self._unreachable(reason)

    def _unreachable(self, reason: str) -> list[Action]:
        return self.core.unreachable(reason, self.clock(), advice_for(self._target))

    def _open(self) -> list[Action]:
        path = self._target.path
        if path is not None and (reason := reason_nobody_listens(path)) is not None:
            return self._unreachable(reason)
        self.close()
        self._socket = dealer(self._context, self._target)
        self._broken_off = 0
        self.core.linked(None if path is not None else "no connection came about")
        try:
            self._monitor = self._socket.get_monitor_socket(_EVENTS)
            self._socket.connect(self._target.endpoint)
        except BaseException:
            self._end_monitor(is_watched=False)
            self._socket.close()
            self._socket = None
            raise
        self._opened(self._socket)
        self._opened(self._monitor)
        return self.core.opened(self.clock())

    def receive_all(self) -> list[Call]:
        """Hand everything that has arrived to the decider; the calls that have a new outcome."""
        woken: list[Call] = []
        while self._socket is not None and wire.is_readable(self._socket):
            frames = wire.receive(self._socket)
            if frames is None:
                break
            woken += self.execute(self.core.received([frame.buffer for frame in frames], self.clock()))
        if self._monitor is not None:
            woken += self.execute(self._events())
            if self._target.keys is None and self.core.phase is Phase.READY:
                self._end_monitor(is_watched=True)  # from here on a look at the socket says more
        return woken

    def _events(self) -> list[Action]:
        """What follows from what happened to the connection itself."""
        actions: list[Action] = []
        while self._monitor is not None and (frames := wire.receive(self._monitor)) is not None:
            event = parse_monitor_message([frame.bytes for frame in frames])
            actions += self._connection_event(event["event"], event["value"])
        return actions

    def _connection_event(self, event: int, value: int) -> list[Action]:
        is_local, endpoint = self._target.keys is None, self._target.endpoint
        match event:
            case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                is_for_good = value == _NEVER
                return self.core.refused(
                    faults.forbidden(endpoint, is_local=is_local) if is_for_good else faults.full(endpoint)
                )
            case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                return self.core.refused(faults.foreign(endpoint))
            case zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL if not is_local:
                self._broken_off += 1
                return self.core.refused(faults.wrong_keys(endpoint)) if self._broken_off >= _BROKEN_OFF else []
            case zmq.EVENT_CONNECTED if not is_local:
                self.core.linked(None)
            case zmq.EVENT_DISCONNECTED if not is_local:
                self.core.linked("the connection broke")
                is_ready = self.core.phase is Phase.READY
                return self.core.unreachable("the connection broke", self.clock()) if is_ready else []
            case _:
                pass
        return []

    def _end_monitor(self, *, is_watched: bool) -> None:
        if self._monitor is None:
            return
        ended, self._monitor = self._monitor, None
        if is_watched:
            self._closing(ended)
        if self._socket is not None:
            self._socket.disable_monitor()
        ended.close()

    def close(self) -> None:
        """Drop the socket, if there is one."""
        self._end_monitor(is_watched=True)
        if self._socket is not None:
            closed, self._socket = self._socket, None
            self._closing(closed)
            closed.close()
