"""Requests that wait, and which worker gets how many of them next: two lanes, whole requests, sized by time. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from embeddaemon.protocol.messages import Lane, ModelRequest
from embeddaemon.supervisor.processes.lifecycle import Worker
from embeddaemon.supervisor.requests.pace import DISPATCH_SECONDS, Pace

CREDITS = 2
"""Dispatches of each lane that a worker may hold: one computing, one tokenizing. The lanes do not share them: whoever
is interactive finds a worker that takes it at once, and a worker computes what is interactive first."""

MAX_DISPATCH_REQUESTS = 256
"""Requests in one dispatch: what is lost together is asked again together."""

HOLD_BACK = 5
"""A bulk dispatch that takes so many times as long as the work in it has been held back enough: its worker gets nothing
interactive until it is through. With what is interactive and held then, bulk keeps a tenth of a worker's time."""


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
    digest: bytes | None = None
    """Of the body, where its answer is worth keeping."""
    user: str = ""
    deaths: int = 0
    """Of workers that died while they were at it, by their own fault or its."""
    unsolved: int = 0
    """Those of them that name no text."""
    alone: tuple[bytes, ...] | None = None
    """Texts, by digest, that one of these deaths may have come of; empty: all of them. None: there was none."""
    bad_outputs: int = 0
    """Workers that gave bad numbers for it."""
    worker: int | None = None
    """The slot that holds it; None while it waits."""

    @property
    def is_suspect(self) -> bool:
        """A worker died while it was at it: it goes alone the next time, so that nobody else pays."""
        return self.alone is not None

    def is_expired(self, now: float) -> bool:
        return now >= self.deadline


class _Lane:
    """First come first served for each user, and the users take turns: who was served goes behind the others."""

    def __init__(self) -> None:
        self._of_users: dict[str, deque[OpenRequest]] = {}
        """In the order of their turns; nobody without requests."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[OpenRequest]:
        for waiting in self._of_users.values():
            yield from waiting

    @property
    def first(self) -> OpenRequest | None:
        """Whose turn it is; None where nobody waits."""
        for waiting in self._of_users.values():
            return waiting[0]
        return None

    def oldest(self) -> float:
        return min(waiting[0].received_at for waiting in self._of_users.values())

    def append(self, request: OpenRequest) -> None:
        self._of_users.setdefault(request.user, deque()).append(request)
        self._length += 1

    def put_first(self, request: OpenRequest) -> None:
        waiting = self._of_users.pop(request.user, deque())
        waiting.appendleft(request)
        self._of_users = {request.user: waiting, **self._of_users}
        self._length += 1

    def pop(self) -> OpenRequest:
        """The first; its user's next turn is after everybody else's."""
        user = next(iter(self._of_users))
        waiting = self._of_users[user]
        request = waiting.popleft()
        if not waiting:
            del self._of_users[user]
        elif len(self._of_users) > 1:
            self._of_users[user] = self._of_users.pop(user)
        self._length -= 1
        return request

    def remove(self, request: OpenRequest) -> None:
        waiting = self._of_users[request.user]
        waiting.remove(request)
        if not waiting:
            del self._of_users[request.user]
        self._length -= 1


class Queue:
    """Requests of one model key that are accepted and not dispatched."""

    def __init__(self) -> None:
        self.waiting_bytes = 0
        self._interactive = _Lane()
        self._bulk = _Lane()

    def __len__(self) -> int:
        return len(self._interactive) + len(self._bulk)

    def __iter__(self) -> Iterator[OpenRequest]:
        yield from self._interactive
        yield from self._bulk

    def _lane(self, lane: Lane) -> _Lane:
        return self._bulk if lane is Lane.BULK else self._interactive

    def add(self, request: OpenRequest) -> None:
        self._lane(request.request.lane).append(request)
        self.waiting_bytes += request.body_bytes

    def put_back(self, request: OpenRequest) -> None:
        """To the front: it has waited already."""
        self._lane(request.request.lane).put_first(request)
        self.waiting_bytes += request.body_bytes

    def remove(self, request: OpenRequest) -> None:
        self._lane(request.request.lane).remove(request)
        self.waiting_bytes -= request.body_bytes

    def oldest(self) -> float | None:
        """When the request that waits longest was received."""
        return min((lane.oldest() for lane in (self._interactive, self._bulk) if lane), default=None)

    def head(self, lane: Lane) -> OpenRequest | None:
        """The request of a lane that goes next."""
        return self._lane(lane).first

    def has_suspect_first(self) -> bool:
        """Whether the next request of a lane is one that must go alone."""
        heads = (self._interactive.first, self._bulk.first)
        return any(head is not None and head.is_suspect for head in heads)

    def take(self, lane: Lane, most_bytes: int) -> list[OpenRequest]:
        """The next dispatch: whole requests of one lane, in order, as many as fit and at least one; a suspect alone."""
        waiting = self._lane(lane)
        taken: list[OpenRequest] = []
        size = 0
        while (candidate := waiting.first) is not None and len(taken) < MAX_DISPATCH_REQUESTS:
            if taken and (size + candidate.body_bytes > most_bytes or candidate.is_suspect):
                break
            taken.append(waiting.pop())
            size += candidate.body_bytes
            if candidate.is_suspect:
                break
        self.waiting_bytes -= size
        return taken


def worker_for(queue: Queue, lane: Lane, workers: Sequence[Worker], pace: Pace, now: float) -> Worker | None:
    """The worker that gets the next dispatch of a lane, the one with the least to do; None when all have enough."""
    head = queue.head(lane)
    assert head is not None, "a worker for nothing: bug"
    free = [worker for worker in workers if not worker.exclusive]
    if head.is_suspect:
        room = [worker for worker in free if not worker.dispatches]
    else:
        if queue.has_suspect_first() and free:
            # One is kept from new work until it is empty: a suspect would wait for ever beside a busy lane.
            free.remove(min(free, key=lambda worker: worker.held_bytes))
        room = [worker for worker in free if has_room(worker, lane, pace, now)]
    return min(room, key=lambda worker: (worker.holds(lane), worker.held_bytes), default=None)


def has_room(worker: Worker, lane: Lane, pace: Pace, now: float) -> bool:
    """Whether a worker may get one more dispatch of a lane."""
    if worker.holds(lane) >= CREDITS:
        return False
    return lane is Lane.BULK or not holds_bulk_back(worker, pace, now)


def holds_bulk_back(worker: Worker, pace: Pace, now: float) -> bool:
    """Whether the bulk dispatch that a worker should be computing has waited long enough for interactive ones."""
    for dispatch in worker.dispatches.values():
        if dispatch.lane is Lane.BULK:
            since = max(dispatch.sent_at, worker.bulk_through_at)
            return now - since > HOLD_BACK * max(pace.seconds(dispatch.size), DISPATCH_SECONDS)
    return False
