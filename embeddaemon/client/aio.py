"""``AsyncClient``: the asyncio client. One connection for the loop that first uses it, shared by all of its tasks.

Not zmq.asyncio, which costs more than half of the rate: the loop watches the socket's descriptor. That descriptor only
says that something *may* have changed, once: so everything is received every time, and looked for again after every
send.
"""

# ruff: noqa: ASYNC109 - a time-out travels with the request; asyncio.timeout may be put around it as well

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import NoReturn, Self

import zmq

from embeddaemon.client._actions import Action, Patience
from embeddaemon.client._connection import ClientClosed
from embeddaemon.client._requests import AsyncPieces, Pieces, call_for, single, wait_seconds
from embeddaemon.client._source import source_of
from embeddaemon.client._target import Target, target_of
from embeddaemon.client._window import Answered, Call, Piece
from embeddaemon.client._wire import DealerSocket, Wire
from embeddaemon.client.aio_encoding import AsyncSentenceTransformerMethods
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import Hello


class _Connection:
    """A wire on an event loop, and the tasks that wait for their calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: Target, patience: Patience) -> None:
        self.loop = loop
        self.pid = os.getpid()
        self.is_closed = False
        self._context: zmq.Context[DealerSocket] = zmq.Context()
        self._waiters: dict[Call, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._wire = Wire(
            self._context,
            target,
            patience,
            clock=loop.time,
            opened=lambda opened: loop.add_reader(opened.fileno(), self._advance),
            closing=self._unwatch,
        )

    def _unwatch(self, closing: DealerSocket) -> None:
        self.loop.remove_reader(closing.fileno())

    async def answers(self, pieces: Pieces | AsyncPieces, call: Call) -> AsyncGenerator[Answered, None]:
        """The answers to the pieces, in their order; submits more of them as the window of the call allows."""
        core = self._wire.core
        if core.server is None:
            await self._greet(call)
        assert core.server is not None, "a request was answered before HELLO: bug"
        source = source_of(pieces(core.server.limits), changed=lambda: self._wake([call]))
        try:
            while not (source.is_over and call.is_over):
                while (answered := call.take()) is not None:
                    yield answered
                if call.has_room and (piece := source.take()) is not None:
                    self._submit(call, piece)
                elif not (source.is_over and call.is_over):
                    await self._outcome(call)
        finally:
            self._abandon(call)
            await source.close()

    async def _greet(self, call: Call) -> None:
        greeting = Call(wait_seconds=call.deadline(self.loop.time()) - self.loop.time())
        try:
            self._submit(greeting, next(single(Hello(id=0))(Limits())))
            while greeting.take() is None:
                await self._outcome(greeting)
        finally:
            self._abandon(greeting)

    def _submit(self, call: Call, piece: Piece) -> None:
        if self.is_closed:
            raise ClientClosed
        self._do(self._wire.core.submit(call, piece, self.loop.time()))
        self._advance()

    def _abandon(self, call: Call) -> None:
        if not call.is_over and not self.is_closed:
            self._do(self._wire.core.abandon(call))
            self._advance()

    async def _outcome(self, call: Call) -> None:
        """Until the call has an outcome, or its source a piece. Nothing is awaited between looking and coming here."""
        if self.is_closed:
            raise ClientClosed
        waiter = self._waiters[call] = self.loop.create_future()
        try:
            await waiter
        finally:
            self._waiters.pop(call, None)

    def _advance(self) -> None:
        """Receive all there is, do what is due, and wake up for what is due next."""
        if self.is_closed:
            return
        self._wake(self._wire.receive_all())
        core = self._wire.core
        now, wakeup = self.loop.time(), core.wakeup()
        if wakeup is not None and now >= wakeup:
            self._do(core.tick(now))
            self._wake(self._wire.receive_all())
        self._set_timer(core.wakeup())

    def _ring(self) -> None:
        self._timer = None
        self._advance()

    def _set_timer(self, wakeup: float | None) -> None:
        """A timer that rings too early does no harm, and is cheaper than a new one for every message."""
        if self._timer is not None:
            if wakeup is not None and self._timer.when() <= wakeup:
                return
            self._timer.cancel()
            self._timer = None
        if wakeup is not None:
            self._timer = self.loop.call_at(wakeup, self._ring)

    def _do(self, actions: Sequence[Action]) -> None:
        self._wake(self._wire.execute(actions))

    def _wake(self, calls: Sequence[Call]) -> None:
        for call in calls:
            waiter = self._waiters.get(call)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def close(self) -> None:
        """Drop the socket; the tasks that wait get ClientClosed."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._wire.close()
        self._context.term()
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_exception(ClientClosed())


def _retire(connection: _Connection) -> None:
    """Nobody has its client any more, and nobody closed it.

    Left to the garbage collector, libzmq's context would wait for ever for a socket that is collected with it.
    """
    if connection.is_closed or connection.pid != os.getpid():
        return
    if connection.loop.is_running():
        with contextlib.suppress(RuntimeError):  # it has ended meanwhile
            connection.loop.call_soon_threadsafe(connection.close)
            return
    connection.close()


class AsyncClient(AsyncSentenceTransformerMethods):
    """Asks the daemon for embeddings from asyncio: the methods of ``Client``, awaited.

        async with AsyncClient() as client:
            vectors = await client.embed(["first text", "second"])

    Any number of tasks may use it at once, from one event loop; a task may be cancelled at any time. Arguments,
    time-outs and errors are those of ``Client``. The forked child of a process that uses one makes its own.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        timeout: float = 30.0,
        *,
        server_key: str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._target = target_of(endpoint, server_key, key_file)
        self.endpoint = self._target.endpoint
        self.timeout = wait_seconds(timeout)
        self._patience = patience or Patience()
        self._connection: _Connection | None = None
        self._is_closed = False

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _answers(
        self, pieces: Pieces | AsyncPieces, timeout: float | None, *, bounds_piece: bool = False
    ) -> AsyncGenerator[Answered, None]:
        connection = self._connected()
        call = call_for(timeout, self.timeout, bounds_piece=bounds_piece, now=connection.loop.time())
        answers = connection.answers(pieces, call)
        try:
            async for answered in answers:
                yield answered
        finally:
            await answers.aclose()

    def _connected(self) -> _Connection:
        if self._is_closed:
            raise ClientClosed
        loop = asyncio.get_running_loop()
        if self._connection is None:
            self._connection = _Connection(loop, self._target, self._patience)
            weakref.finalize(self, _retire, self._connection)
        if self._connection.loop is not loop or self._connection.pid != os.getpid():
            raise RuntimeError("this AsyncClient belongs to another event loop or process: make one for each")
        return self._connection

    async def close(self) -> None:
        """Close the connection. Calls that wait in other tasks end with ClientClosed."""
        self._is_closed = True
        if self._connection is not None:
            self._connection.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AsyncClient cannot be pickled or copied: make one in each process")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
