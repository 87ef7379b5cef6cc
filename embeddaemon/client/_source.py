"""Where the pieces of an asynchronous call come from: an iterator, or texts that are waited for while answers come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator

from embeddaemon.client._window import Piece


class Given:
    """Pieces that are made when they are asked for. A slow iterator holds up the event loop."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self.is_over = False
        self._pieces = pieces

    def take(self) -> Piece | None:
        """The next one; None at the end."""
        piece = next(self._pieces, None)
        self.is_over = piece is None
        return piece

    async def close(self) -> None:
        """Nothing is to be ended."""


class Awaited:
    """Pieces that one task waits for, one ahead: what the caller's generator has open may span all of them."""

    def __init__(self, pieces: AsyncGenerator[Piece, None], changed: Callable[[], None]) -> None:
        """``changed`` is called when there is something to take, or the end to be noticed."""
        self.is_over = False
        self._changed = changed
        self._piece: Piece | None = None
        self._is_taken = asyncio.Event()
        self._reading = asyncio.get_running_loop().create_task(self._read(pieces))
        self._reading.add_done_callback(lambda _ended: changed())

    async def _read(self, pieces: AsyncGenerator[Piece, None]) -> None:
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                self._piece = piece
                self._is_taken.clear()
                self._changed()
                await self._is_taken.wait()

    def take(self) -> Piece | None:
        """The next one, if it is there; ``is_over`` says whether more may come. Raises what the caller's raised."""
        piece, self._piece = self._piece, None
        if piece is not None:
            self._is_taken.set()
        elif self._reading.done():
            self.is_over = True
            self._reading.result()
        return piece

    async def close(self) -> None:
        """End the task, wherever it waits, and wait until it has ended."""
        self._reading.cancel()
        await asyncio.wait([self._reading])
        if not self._reading.cancelled():
            self._reading.exception()  # raised by take, or wanted by nobody


def source_of(pieces: Iterator[Piece] | AsyncGenerator[Piece, None], changed: Callable[[], None]) -> Given | Awaited:
    """Either kind; ``changed`` as for ``Awaited``."""
    return Awaited(pieces, changed) if isinstance(pieces, AsyncGenerator) else Given(pieces)
