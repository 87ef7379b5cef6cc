"""What must go so that something else fits. Whether anything must go is decided in core.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is evicted as one, by the names under which it holds leases: a model, or one worker that it can spare.

    ``idle_since`` is None while it is busy; it and ``loaded_at`` are monotonic seconds. ``is_leaving`` says that it was
    told to go and its leases are on their way back. A worker's leases are also among those of its model.
    """

    name: str
    holders: tuple[str, ...]
    idle_since: float | None
    loaded_at: float
    is_pinned: bool = False
    is_leaving: bool = False


def is_evictable(candidate: Candidate, now: float, minimum_residence_seconds: float) -> bool:
    """Idle, not pinned, not on its way out, and here long enough that loading it was not for nothing."""
    return (
        candidate.idle_since is not None
        and not candidate.is_pinned
        and not candidate.is_leaving
        and now - candidate.loaded_at >= minimum_residence_seconds
    )


def choose_victims(
    candidates: Sequence[Candidate],
    held_bytes: Callable[[Iterable[str]], int],
    needed_bytes: int,
    now: float,
    minimum_residence_seconds: float,
) -> tuple[Candidate, ...] | None:
    """The least recently used evictable candidates that together free ``needed_bytes``; None if all do not.

    ``held_bytes`` says what some holders hold together, each counted once. None of the victims could be spared: those
    that a larger one makes superfluous stay, the most recently used of them first.
    """
    evictable = [each for each in candidates if is_evictable(each, now, minimum_residence_seconds)]
    evictable.sort(key=last_used)
    victims: list[Candidate] = []
    for candidate in evictable:
        if _freed(victims, held_bytes) >= needed_bytes:
            break
        victims.append(candidate)
    if _freed(victims, held_bytes) < needed_bytes:
        return None
    for candidate in reversed(victims.copy()):
        others = [each for each in victims if each is not candidate]
        if _freed(others, held_bytes) >= needed_bytes:
            victims = others
    return tuple(victims)


def _freed(victims: Sequence[Candidate], held_bytes: Callable[[Iterable[str]], int]) -> int:
    return held_bytes(holder for victim in victims for holder in victim.holders)


def last_used(candidate: Candidate) -> tuple[float, float, str]:
    """The order in which they go; of those used last at the same time, the one loaded first has had most of it."""
    assert candidate.idle_since is not None, "only idle candidates are sorted"
    return candidate.idle_since, candidate.loaded_at, candidate.name
