"""One connection, of one call at a time: waits on its wire until the pieces are answered. sync.py says whose it is."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Generator, Iterator

import zmq

from embeddaemon.client._actions import Patience
from embeddaemon.client._requests import Pieces, single
from embeddaemon.client._target import Target
from embeddaemon.client._window import Answered, Call, Piece
from embeddaemon.client._wire import DealerSocket, Wire
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import Hello

_LONGEST_NAP_SECONDS = 3600.0


class ClientClosed(RuntimeError):
    """The client was closed before, or while, it was asked."""

    def __init__(self) -> None:
        super().__init__("this client is closed: make a new one")


class Connection:
    """A wire, and the waiting on it."""

    def __init__(
        self, context: zmq.Context[DealerSocket], target: Target, patience: Patience, bell: socket.socket
    ) -> None:
        """``bell`` becomes readable when the client is closed by another thread."""
        self.is_closed = False
        self.is_taken = False
        """Whether a call of the thread that it belongs to is under way on it."""
        self._is_at_rest = False
        """Whether its thread waits in the middle of a step: nothing is half done then."""
        # Held by whoever asks in every step and by whoever closes the client: contended only then. Reentrant for the
        # sake of a signal handler that closes the client in the middle of a step.
        self._lock = threading.RLock()
        self._poller = zmq.Poller()
        self._poller.register(bell, zmq.POLLIN)
        self._wire = Wire(
            context,
            target,
            patience,
            clock=time.monotonic,
            opened=lambda opened: self._poller.register(opened, zmq.POLLIN),
            closing=self._poller.unregister,
        )

    def answers(self, pieces: Pieces, call: Call) -> Generator[Answered, None, None]:
        """The answers to the pieces, in their order; submits more of them as the window of the call allows."""
        return self._exchange(pieces(self._limits(call)), call)

    def _limits(self, call: Call) -> Limits:
        """What the daemon allows: the first HELLO is waited for, as nothing can be cut without it."""
        core = self._wire.core
        if core.server is None:
            now = time.monotonic()
            greeting = Call(wait_seconds=call.deadline(now) - now)
            for _ in self._exchange(single(Hello(id=0))(Limits()), greeting):
                pass
            assert core.server is not None, "a request was answered before HELLO: bug"
        return core.server.limits

    def _exchange(self, pieces: Iterator[Piece], call: Call) -> Generator[Answered, None, None]:
        has_more = True
        try:
            while True:
                while (answered := call.take()) is not None:
                    yield answered
                if not (has_more and call.has_room):
                    if call.is_over:
                        return
                    self._step()
                elif call.is_over or not self._look():  # the source may be slow: what is there is not kept waiting
                    if (piece := next(pieces, None)) is not None:
                        self._submit(call, piece)
                    else:
                        has_more = False
        finally:
            self._abandon(call)

    def _submit(self, call: Call, piece: Piece) -> None:
        with self._stepping():
            self._wire.execute(self._wire.core.submit(call, piece, time.monotonic()))

    def _abandon(self, call: Call) -> None:
        if not call.is_over and not self.is_closed:
            with self._stepping():
                self._wire.execute(self._wire.core.abandon(call))

    def _step(self) -> None:
        """Wait until something arrives or is due, and do it."""
        with self._stepping():
            wakeup = self._wire.core.wakeup()
            assert wakeup is not None, "waiting for nothing: bug"
            nap_seconds = min(max(wakeup - time.monotonic(), 0.0), _LONGEST_NAP_SECONDS)
            self._is_at_rest = True
            self._poller.poll(math.ceil(nap_seconds * 1000))
            self._is_at_rest = False
            if self.is_closed:
                raise ClientClosed
            self._advance()

    def _look(self) -> bool:
        """Do what has arrived or is due, without waiting; whether the call has a new outcome."""
        with self._stepping():
            return self._advance()

    def _advance(self) -> bool:
        woken = self._wire.receive_all()
        woken += self._wire.execute(self._wire.core.tick(time.monotonic()))
        return bool(woken)

    @contextlib.contextmanager
    def _stepping(self) -> Iterator[None]:
        with self._lock:
            if self.is_closed:
                raise ClientClosed
            try:
                yield
            except BaseException:
                # Ctrl-C while waiting changes nothing, and the call can still be withdrawn. Anywhere else in a step
                # decider and socket may disagree, and nobody else knows what was sent.
                if not self._is_at_rest:
                    self.close()
                raise
            finally:
                self._is_at_rest = False

    def close(self) -> None:
        """Drop the socket; whoever waits gets ClientClosed."""
        self.is_closed = True
        with self._lock:
            self._wire.close()
