"""What a worker holds and has not computed: requests as rows, rows as micro-batches, two lanes. Pure.

Micro-batches are sized by time: a text that comes waits for the one that is running, so that one should be short. How
long a token takes is learned from those that ran.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from embeddaemon.protocol import link
from embeddaemon.protocol.messages import Embed, Lane
from embeddaemon.workers import packing
from embeddaemon.workers.engines import Rows
from embeddaemon.workers.requests import Tokenized
from embeddaemon.workers.screening import Refusal

MICRO_BATCH_SECONDS = 0.05
"""What one should take at most: half of a dispatch (supervisor/requests/pace.py), for two streams to share it."""

SMALLEST_MICRO_BATCH = 256
"""Tokens, however slow the model: with fewer the processor is not busy, it waits for the weights."""

STREAMS_OF_A_DEVICE = 2
"""While one waits for what the device computes, the other sends it the next micro-batch; a third would only wait."""

FIRST_MICRO_BATCH = 1024
"""Tokens at most, while nothing is known: what was once allocated for a large one stays with the process."""

BULK_TURN = 8
"""While both lanes wait, every eighth micro-batch is bulk: interactive goes first, bulk never stands still."""

_WEIGHT = 0.2
"""Of the newest micro-batch in what a token is believed to take."""


def most_tokens_at_once(stream_tokens: int, threads: int, max_tokens: int) -> int:
    """The most tokens that a worker of so many threads computes at once on a CPU: activations are in proportion to it.

    Each thread is a stream with a micro-batch of its own. ``max_tokens`` is the model's longest text, which goes alone.
    """
    return threads * max(max_tokens, stream_tokens)


def most_tokens_on_device(token_budget: int, max_tokens: int) -> int:
    """The same on a device, whose micro-batches take as much as the token budget allows."""
    return STREAMS_OF_A_DEVICE * max(max_tokens, token_budget)


@dataclass(slots=True, eq=False)
class Work:
    """One request on its way through the model."""

    item: link.Item
    request: Embed
    tokenized: Tokenized
    deadline: float
    tokenize_us: int
    alone: frozenset[int] = frozenset()
    """Places of texts that are computed with nothing else in the worker."""
    refused: dict[int, Refusal] = field(default_factory=dict)
    """Texts that may not be computed any more, by their places; their rows say nothing."""
    rows: Rows = field(init=False)
    missing: int = field(init=False)
    """Rows not computed yet."""
    compute_us: int = 0
    running: int = 0
    """Streams that compute some of it now."""
    withdrawn: bool = False
    """Nobody waits for it; it ends when no stream computes it any more."""
    ended: bool = False

    def expect(self, pooled_dim: int) -> None:
        """Room for the rows, as the pooling gives them."""
        self.missing = len(self.tokenized.ids)
        self.rows = np.empty((self.missing, pooled_dim), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Row:
    """One text of one request."""

    work: Work
    index: int

    @property
    def tokens(self) -> int:
        return len(self.work.tokenized.ids[self.index])

    @property
    def digest(self) -> bytes:
        return self.work.tokenized.digest(self.index)


MicroBatch = list[Row]
"""Shortest first."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that came together and fit into one micro-batch."""

    rows: MicroBatch
    tokens: int
    is_alone: bool = False
    """Nothing may join it: it is tried by itself."""


class Waiting:
    """Rows in the order in which they will be computed, as far as nothing more urgent comes."""

    def __init__(self, token_budget: int, streams: int) -> None:
        self._token_budget = token_budget
        self._streams = streams
        self._seconds_per_token: float | None = None
        self._lanes: dict[Lane, deque[_Part]] = {lane: deque() for lane in Lane}
        self._tokens = dict.fromkeys(Lane, 0)
        self._since_bulk = 0
        self._alone: deque[MicroBatch] = deque()

    def __bool__(self) -> bool:
        return any(self._lanes.values())

    def add(self, works: Iterable[Work]) -> int:
        """All their rows, those of one lane together, in as many parts as streams if there is enough for them.

        Gives how many.
        """
        added = 0
        lanes: dict[Lane, MicroBatch] = {}
        for work in works:
            rows = [Row(work, index) for index in range(work.missing) if index not in work.alone]
            lanes.setdefault(work.request.lane, []).extend(rows)
            self._alone += [[Row(work, index)] for index in sorted(work.alone)]
            added += len(work.alone)
        for lane, rows in lanes.items():
            lengths = [row.tokens for row in rows]
            tokens = sum(lengths)
            self._tokens[lane] += tokens
            for planned in packing.plan(lengths, self._budget(tokens)):
                self._lanes[lane].append(_Part([rows[index] for index in planned.indices], planned.tokens))
                added += 1
        return added

    def put_back(self, lane: Lane, micro_batches: Sequence[MicroBatch]) -> None:
        """To the front, in order, each to be computed by itself."""
        parts = [_Part(rows, sum(row.tokens for row in rows), is_alone=True) for rows in micro_batches]
        self._lanes[lane].extendleft(reversed(parts))
        self._tokens[lane] += sum(part.tokens for part in parts)

    def take(self) -> MicroBatch | None:
        """The micro-batch to compute now: what is next, and of what came after it as much as goes with it."""
        lane = self._next_lane()
        waiting = self._lanes[lane]
        if not waiting:
            return None
        first = waiting.popleft()
        rows, tokens = first.rows, first.tokens
        if waiting and not first.is_alone:
            most = self._budget(self._tokens[lane])
            while waiting and not (more := waiting[0]).is_alone and tokens + more.tokens <= most:
                rows, tokens = rows + more.rows, tokens + more.tokens
                waiting.popleft()
            if rows is not first.rows:
                rows.sort(key=lambda row: row.tokens)
        self._tokens[lane] -= tokens
        return rows

    def take_alone(self) -> MicroBatch | None:
        """A text that must have the worker to itself, once everything else is through."""
        return self._alone.popleft() if self._alone and not self else None

    def _next_lane(self) -> Lane:
        interactive, bulk = self._lanes[Lane.INTERACTIVE], self._lanes[Lane.BULK]
        if bulk and (not interactive or self._since_bulk >= BULK_TURN - 1):
            self._since_bulk = 0
            return Lane.BULK
        self._since_bulk += bool(interactive)
        return Lane.INTERACTIVE

    def learn(self, tokens: int, seconds: float) -> None:
        """A micro-batch of many tokens took so long in one thread."""
        if tokens < SMALLEST_MICRO_BATCH // 2:
            return  # mostly what is the same for every pass
        per_token = seconds / tokens
        known = self._seconds_per_token
        self._seconds_per_token = per_token if known is None else known + _WEIGHT * (per_token - known)

    def seconds(self, tokens: int) -> float | None:
        """What so many tokens should take one thread; None while nothing is known."""
        return None if self._seconds_per_token is None else self._seconds_per_token * tokens

    def _budget(self, tokens: int) -> int:
        """Tokens in a micro-batch, when so many wait."""
        per_token = self._seconds_per_token
        soon_through = FIRST_MICRO_BATCH if per_token is None else int(MICRO_BATCH_SECONDS / per_token)
        even_share = -(-tokens // self._streams)
        return min(self._token_budget, max(SMALLEST_MICRO_BATCH, min(soon_through, even_share)))
