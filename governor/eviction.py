"""Which idle models must go so that another fits. Whether anything must go is decided in core.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is evicted as one: a worker, or a template with all its workers, by the names under which they hold leases.

    ``idle_since`` is None while it is busy; it and ``loaded_at`` are monotonic seconds. ``is_leaving`` says that it was
    told to go and its leases are on their way back.
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
    freed_bytes: Mapping[str, int],
    needed_bytes: int,
    now: float,
    minimum_residence_seconds: float,
) -> tuple[Candidate, ...] | None:
    """The least recently used evictable candidates that together free ``needed_bytes``; None if all do not.

    ``freed_bytes`` says by name what each would free. None of the victims could be spared: those that a larger one
    makes superfluous stay, the most recently used of them first.
    """
    evictable = [each for each in candidates if is_evictable(each, now, minimum_residence_seconds)]
    evictable.sort(key=_last_used)
    victims: list[Candidate] = []
    freed = 0
    for candidate in evictable:
        if freed >= needed_bytes:
            break
        victims.append(candidate)
        freed += freed_bytes[candidate.name]
    if freed < needed_bytes:
        return None
    for candidate in reversed(victims.copy()):
        if freed - freed_bytes[candidate.name] >= needed_bytes:
            victims.remove(candidate)
            freed -= freed_bytes[candidate.name]
    return tuple(victims)


def _last_used(candidate: Candidate) -> tuple[float, str]:
    assert candidate.idle_since is not None, "only idle candidates are sorted"
    return candidate.idle_since, candidate.name
