"""Requests that wait and how they are handed out: two lanes per model key, whole requests, bounded in bytes. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from embeddaemon.protocol.messages import Lane, ModelRequest

CREDITS = 2
"""Dispatches that a worker may hold: one computing, one tokenizing."""

MAX_DISPATCH_BYTES = 16 * 1024
"""Of bodies in one dispatch: a few thousand tokens, tens of milliseconds of a small model. One request may be more."""

MAX_DISPATCH_REQUESTS = 64
"""Requests in one dispatch: what is lost together is asked again together."""

BULK_TURN = 8
"""While both lanes wait, every eighth dispatch is bulk: interactive goes first, bulk never stands still."""


@dataclass(slots=True, kw_only=True)
class OpenRequest:
    """One accepted request until it ends. Times are monotonic seconds."""

    serial: int
    client: bytes
    request: ModelRequest
    model: str
    header: object
    body: object
    body_bytes: int
    received_at: float
    deadline: float
    attempts: int = 0
    """Workers that died under it, by their own fault or its."""
    worker: int | None = None
    """The slot that holds it; None while it waits."""

    @property
    def is_suspect(self) -> bool:
        """A worker died while holding it: it goes alone the next time, so that nobody else pays."""
        return self.attempts > 0

    def is_expired(self, now: float) -> bool:
        return now >= self.deadline


@dataclass(slots=True)
class Queue:
    """Requests of one model key that are accepted and not dispatched."""

    interactive: deque[OpenRequest] = field(default_factory=deque)
    bulk: deque[OpenRequest] = field(default_factory=deque)
    _since_bulk: int = 0
    waiting_bytes: int = 0

    def __len__(self) -> int:
        return len(self.interactive) + len(self.bulk)

    def __iter__(self) -> Iterator[OpenRequest]:
        yield from self.interactive
        yield from self.bulk

    def _lane(self, request: OpenRequest) -> deque[OpenRequest]:
        return self.bulk if request.request.lane is Lane.BULK else self.interactive

    def add(self, request: OpenRequest) -> None:
        self._lane(request).append(request)
        self.waiting_bytes += request.body_bytes

    def put_back(self, request: OpenRequest) -> None:
        """To the front: it has waited already."""
        self._lane(request).appendleft(request)
        self.waiting_bytes += request.body_bytes

    def remove(self, request: OpenRequest) -> None:
        self._lane(request).remove(request)
        self.waiting_bytes -= request.body_bytes

    def oldest(self) -> float | None:
        """When the request that waits longest was received."""
        heads = [lane[0].received_at for lane in (self.interactive, self.bulk) if lane]
        return min(heads) if heads else None

    def head(self) -> OpenRequest | None:
        """The request that would go next."""
        lane = self._next_lane()
        return lane[0] if lane else None

    def _next_lane(self) -> deque[OpenRequest]:
        if self.interactive and self.bulk:
            return self.bulk if self._since_bulk >= BULK_TURN - 1 else self.interactive
        return self.interactive or self.bulk

    def take(self) -> list[OpenRequest]:
        """The next dispatch: whole requests of one lane within the bounds, in order; a suspect goes alone."""
        lane = self._next_lane()
        taken: list[OpenRequest] = []
        size = 0
        while lane and len(taken) < MAX_DISPATCH_REQUESTS:
            candidate = lane[0]
            if taken and (size + candidate.body_bytes > MAX_DISPATCH_BYTES or candidate.is_suspect):
                break
            taken.append(lane.popleft())
            size += candidate.body_bytes
            if candidate.is_suspect:
                break
        if taken:
            self._since_bulk = 0 if lane is self.bulk else self._since_bulk + 1
            self.waiting_bytes -= size
        return taken
