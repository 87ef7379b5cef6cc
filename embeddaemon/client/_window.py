"""One call: its pieces, how many of them are in flight, and their answers back in order. Pure: no clock, no socket.

The window opens while answers come fast and closes when the daemon is slow or full, so that no piece waits long for the
pieces of its own call: what is in flight counts against each piece's deadline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from embeddaemon.errors import EmbedDaemonError
from embeddaemon.protocol.messages import Answer, Request

PIECE_TEXTS = 64
"""Texts in a piece: enough to fill a micro-batch of short ones."""
PIECE_CHARACTERS = 16 * 1024
"""Characters in a piece, some 4,000 tokens: about what the daemon gives a worker at once, a tenth of a second of a
small model. It can only give whole requests, and whatever is in one is late, withdrawn or computed again together."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One request of a call. Its id and deadline are set when it is sent, and again when it is sent again."""

    number: int
    """Place among the pieces of the call, from 0."""
    offset: int
    """Place of its first text among the texts of the call."""
    count: int
    """Texts in it."""
    request: Request
    body: bytes


@dataclass(frozen=True, slots=True)
class Span:
    """Texts of a call that were, or are to be, in one piece."""

    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A piece with its answer and the frames behind the header. Times are monotonic seconds."""

    piece: Piece
    answer: Answer
    frames: Sequence[memoryview]
    submitted_at: float
    answered_at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A piece that ended without its answer."""

    piece: Piece
    error: EmbedDaemonError


Outcome = Answered | Ended


class Cutter:
    """Gathers texts until a piece has as many as it may, or the next one would make it too large."""

    def __init__(self, *, max_texts: int = PIECE_TEXTS, max_characters: int = PIECE_CHARACTERS) -> None:
        self._max_texts = max_texts
        self._max_characters = max_characters
        self._texts: list[str] = []
        self._characters = 0

    def add(self, text: str) -> list[str]:
        """Take one more text; the texts of the piece that this completed, or nothing."""
        full: list[str] = []
        if self._texts and (len(self._texts) >= self._max_texts or self._characters + len(text) > self._max_characters):
            full = self.rest()
        self._texts.append(text)
        self._characters += len(text)
        return full or (self.rest() if len(self._texts) >= self._max_texts else [])

    def rest(self) -> list[str]:
        """What is left for the last piece."""
        texts, self._texts, self._characters = self._texts, [], 0
        return texts


def cut(
    texts: Iterable[str], *, max_texts: int = PIECE_TEXTS, max_characters: int = PIECE_CHARACTERS
) -> Iterator[list[str]]:
    """Texts as lists for one piece each, lazily, in order. A text that is too large by itself is alone in its piece."""
    cutter = Cutter(max_texts=max_texts, max_characters=max_characters)
    for text in texts:
        if full := cutter.add(text):
            yield full
    if rest := cutter.rest():
        yield rest


@dataclass(slots=True)
class Window:
    """How many pieces of one call may be in flight."""

    size: int = 4
    """Enough for one worker: one piece computed, one tokenized, two on their way."""
    largest: int = 16
    """Keeps four workers busy; more only fills queues."""
    fast_seconds: float = 2.0
    """A piece answered sooner than this opens the window by one."""
    slow_seconds: float = 6.0
    """A piece answered later than this closes it by one: a fifth of the usual time-out."""

    def answered(self, seconds: float) -> None:
        """A piece was answered after so long."""
        if seconds < self.fast_seconds:
            self.size = min(self.size + 1, self.largest)
        elif seconds > self.slow_seconds:
            self.size = max(self.size - 1, 1)

    def refused(self) -> None:
        """The daemon's queue is full: half as many."""
        self.size = max(self.size // 2, 1)


class Call:
    """One call of the client: counts what is in flight and gives the outcomes back in the order of the pieces."""

    def __init__(self, *, wait_seconds: float, deadline: float | None = None, window: Window | None = None) -> None:
        """``wait_seconds`` bounds the wait for a piece, ``deadline`` (monotonic) the whole call where it is given."""
        self.wait_seconds = wait_seconds
        self.window = window or Window()
        self._deadline = deadline
        self._in_flight = 0
        self._submitted = 0
        self._taken = 0
        self._outcomes: dict[int, Outcome] = {}
        self._has_failed = False

    @property
    def has_room(self) -> bool:
        """Whether one more piece may be submitted. Answers that nobody took yet count: that bounds the memory."""
        return not self._has_failed and self._in_flight + len(self._outcomes) < self.window.size

    @property
    def is_over(self) -> bool:
        """Whether everything submitted was answered and taken."""
        return self._taken == self._submitted

    def deadline(self, now: float) -> float:
        """The deadline of a piece that is submitted now."""
        return now + self.wait_seconds if self._deadline is None else self._deadline

    def submitted(self) -> None:
        """One more piece is in flight."""
        self._in_flight += 1
        self._submitted += 1

    def deliver(self, outcome: Outcome) -> None:
        """A piece in flight ended."""
        assert self._in_flight > 0, "an outcome without a piece in flight"
        assert outcome.piece.number not in self._outcomes, "a piece ended twice"
        assert outcome.piece.number >= self._taken, "a piece ended after it was taken"
        self._in_flight -= 1
        self._outcomes[outcome.piece.number] = outcome
        match outcome:
            case Answered():
                self.window.answered(outcome.answered_at - outcome.submitted_at)
            case Ended():
                self._has_failed = True

    def take(self) -> Answered | None:
        """The next answer in order, if it is there. Raises the error of a piece that ended without one."""
        outcome = self._outcomes.pop(self._taken, None)
        if outcome is None:
            return None
        self._taken += 1
        if isinstance(outcome, Ended):
            raise outcome.error
        return outcome
