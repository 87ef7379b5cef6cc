"""What the compute threads are at, since when, and how long that may take: how a stream that hangs is told. Pure.

A worker that is alive and even answers may have one thread that is for ever in a forward pass. What follows is decided
by the supervisor, which hears of the latest turn in every heartbeat.
"""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE = 20.0
"""A turn may take so many times what it should: a busy machine, or a text whose attention grows with its square."""

GUESSED_SECONDS = 1e-12
"""Per parameter and token, until something was measured: twice the arithmetic at a hundredth of a processor's speed."""


@dataclass(frozen=True, slots=True)
class _Turn:
    began_at: float
    patience_seconds: float


class Turns:
    """Times are monotonic seconds."""

    def __init__(self, parameters: int) -> None:
        self._guessed_seconds = GUESSED_SECONDS * parameters
        self._turns: dict[int, _Turn] = {}

    def begin(self, stream: int, tokens: int, expected_seconds: float | None, now: float) -> None:
        """A stream begins with so many tokens; None: nobody knows how long they take."""
        expected = self._guessed_seconds * tokens if expected_seconds is None else expected_seconds
        self._turns[stream] = _Turn(now, PATIENCE * expected)

    def restart(self, stream: int, now: float) -> None:
        """It goes on with something else before it is through, and was not late."""
        if (turn := self._turns.get(stream)) is not None:
            self._turns[stream] = _Turn(now, turn.patience_seconds)

    def end(self, stream: int) -> None:
        """It is through."""
        self._turns.pop(stream, None)

    def latest(self, now: float) -> tuple[int, int]:
        """For how many milliseconds the latest stream is at its turn, and how many it may be; zeros when none is."""
        late = max(self._turns.values(), key=lambda turn: now - turn.began_at - turn.patience_seconds, default=None)
        return (0, 0) if late is None else (int(1000 * (now - late.began_at)), int(1000 * late.patience_seconds))
