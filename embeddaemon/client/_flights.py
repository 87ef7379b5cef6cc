"""The pieces of one connection that have no outcome yet: which are sent, under which id, and when one is due. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from embeddaemon.client._window import Call, Piece


class Flight:
    """A piece from its submission to its outcome."""

    __slots__ = ("call", "deadline", "id", "piece", "resend_at", "submitted_at", "ticket")

    def __init__(self, ticket: int, call: Call, piece: Piece, submitted_at: float, deadline: float) -> None:
        self.ticket = ticket
        self.call = call
        self.piece = piece
        self.submitted_at = submitted_at
        self.deadline = deadline
        self.id = 0
        """Of the request on the wire; 0 while it is not sent."""
        self.resend_at = -math.inf


class Flights:
    """In the order of submission. Times are monotonic seconds."""

    def __init__(self, late_seconds: float) -> None:
        """A piece is due ``late_seconds`` after its deadline: the daemon is the first to say that it has passed."""
        self.due = math.inf
        """Not later than the first deadline or retry of a flight."""
        self.sent: dict[int, Flight] = {}
        """By the id of its request."""
        self._all: dict[int, Flight] = {}
        self._late_seconds = late_seconds
        self._tickets = 0
        self._ids = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Flight]:
        """Of those that are there now: the caller may forget some on the way."""
        return iter(list(self._all.values()))

    def add(self, call: Call, piece: Piece, now: float) -> Flight:
        self._tickets += 1
        flight = Flight(self._tickets, call, piece, now, call.deadline(now))
        self._all[flight.ticket] = flight
        self.due = min(self.due, self._expiry(flight))
        return flight

    def new_id(self) -> int:
        """For a request; none is ever used again on this connection."""
        self._ids += 1
        return self._ids

    def send(self, flight: Flight) -> None:
        """It is in the daemon's hands, under a new id."""
        flight.id = self.new_id()
        self.sent[flight.id] = flight

    def unsent(self, now: float) -> list[Flight]:
        """Those to send now."""
        return [flight for flight in self._all.values() if flight.id == 0 and flight.resend_at <= now]

    def retry(self, flight: Flight, resend_at: float) -> None:
        """It is not in the daemon's hands any more, and is to be sent again then."""
        del self.sent[flight.id]
        flight.id = 0
        flight.resend_at = resend_at
        self.due = min(self.due, resend_at)

    def lose_sent(self) -> None:
        """Whoever had them is gone."""
        for flight in self.sent.values():
            flight.id = 0
        self.sent.clear()

    def late(self, now: float) -> list[Flight]:
        """Those that have had their time."""
        return [flight for flight in self._all.values() if now >= self._expiry(flight)]

    def find_due(self, now: float) -> None:
        """Sets ``due`` to the first deadline or retry that is still to come."""
        self.due = min((self._next_due(flight, now) for flight in self._all.values()), default=math.inf)

    def forget(self, flight: Flight) -> None:
        del self._all[flight.ticket]
        self.sent.pop(flight.id, None)
        if not self._all:
            self.due = math.inf

    def _expiry(self, flight: Flight) -> float:
        return flight.deadline + self._late_seconds

    def _next_due(self, flight: Flight, now: float) -> float:
        expiry = self._expiry(flight)
        return min(expiry, flight.resend_at) if flight.id == 0 and flight.resend_at > now else expiry
