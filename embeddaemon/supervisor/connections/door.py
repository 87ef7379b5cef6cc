"""The door of the daemon's own socket: who comes in, who is refused and told why. I/O."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from embeddaemon.supervisor.connections import zmtp
from embeddaemon.supervisor.connections.authorisation import Access, Peer, User
from embeddaemon.supervisor.connections.notes import Notes
from embeddaemon.supervisor.connections.peers import peer_of
from embeddaemon.supervisor.connections.quotas import Room

_ACCEPTS_PER_TURN = 64
_PAUSE_SECONDS = 0.1
"""Without accepting, after the system had no descriptor for us."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who may come in, and as whom."""

    socket: socket.socket
    peer: Peer
    user: User


class Door:
    """The listening socket. The selector gives it back with None as its data."""

    def __init__(
        self,
        access: Access,
        room: Room,
        selector: selectors.BaseSelector,
        notes: Notes,
        clock: Callable[[], float],
    ) -> None:
        self.access = access
        """Who may come in; it may change."""
        self._room = room
        self._selector = selector
        self._notes = notes
        self._clock = clock
        self._listening: socket.socket | None = None
        self.open_again_at = float("inf")
        """When ``open_again`` is due; infinite unless it is paused."""

    def listen(self, listening: socket.socket) -> None:
        """Accept here, and no longer where we did before."""
        self.close()
        listening.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._listening = listening
        self.open_again_at = float("inf")
        self._selector.register(listening, selectors.EVENT_READ)

    def close(self) -> None:
        """Nobody comes in any more."""
        if self._listening is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._listening)
            self._listening.close()
            self._listening = None

    def open_again(self, now: float) -> None:
        """After a pause, when it is over."""
        if now >= self.open_again_at and self._listening is not None:
            self.open_again_at = float("inf")
            self._selector.register(self._listening, selectors.EVENT_READ)

    def accept(self) -> Iterator[Visitor]:
        """Those who may come in."""
        for _ in range(_ACCEPTS_PER_TURN):
            if self._listening is None:
                return
            try:
                accepted, _ = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._pause(error)
                    return
                continue  # that peer has left already
            if (visitor := self._welcome(accepted)) is not None:
                yield visitor

    def _pause(self, error: OSError) -> None:
        """Nobody can be let in, nor refused; they wait in the kernel's queue."""
        self._notes.note("accept_paused", error=str(error), connections=self._room.connections.total())
        assert self._listening is not None
        self._selector.unregister(self._listening)
        self.open_again_at = self._clock() + _PAUSE_SECONDS

    def _welcome(self, accepted: socket.socket) -> Visitor | None:
        accepted.setblocking(False)  # noqa: FBT003 - the standard library's signature
        try:
            peer = peer_of(accepted)
        except OSError:
            peer = Peer(-1, frozenset())
        user = self.access.user_of(peer)
        if user is None:
            self._refuse(accepted, "400", "refused_user", f"uid:{peer.uid}")
            return None
        if not self._room.has_place(user.name, is_admin=user.is_admin):
            self._refuse(accepted, "300", "refused_connection", user.name)
            return None
        return Visitor(accepted, peer, user)

    def _refuse(self, accepted: socket.socket, status: str, why: str, user: str) -> None:
        """The peer reads why before it sees that we have closed."""
        self._notes.note(why, user=user, connections=self._room.connections.total())
        with contextlib.suppress(OSError), accepted:
            accepted.send(zmtp.refusal(status))
            accepted.shutdown(socket.SHUT_WR)
