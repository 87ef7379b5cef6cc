"""Who waits to hear if models are well, and what was found of each: data. Pure.

What is done for them is in checkups.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of the known text that a model was to embed."""

    ok: bool | None
    """None: it was not asked to."""
    why: str | None
    """Why not, or what is wrong."""
    seconds: float
    """From the question on."""


@dataclass(slots=True, kw_only=True)
class Checkup:
    """The known text, on its way through a worker."""

    model: str
    serial: int
    worker: int
    incarnation: int
    began_at: float
    deaths: int = 0
    """Workers that ended while they had it, for whatever reason."""


@dataclass(slots=True, kw_only=True)
class Asker:
    """A client whose ``health`` has not been answered. Times are monotonic seconds."""

    client: bytes
    id: int
    since: float
    deadline: float
    is_named: bool
    """It asks for one model, and not for the daemon."""
    wakes: bool
    names: tuple[str, ...]
    """Of the models that it asks for."""
    pending: set[str] = field(default_factory=set)
    """Those of which nothing is known yet."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
