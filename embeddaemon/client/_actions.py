"""What the decider of a connection (_core.py) tells its shell (_wire.py) to do, and how patient it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from embeddaemon.client._window import Call


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for the daemon, in seconds."""

    connect: float = 1.0
    """Nobody listens: one that is just starting gets this long."""
    reconnect: float = 2.0
    """The daemon went away under us: a restart gets this long."""
    attempt: float = 0.05
    """Between two tries to connect."""
    hello: float = 5.0
    """Somebody listens and says nothing: systemd's socket while the daemon starts, or a machine that swaps."""
    silence: float = 1.0
    """Waiting for answers without hearing anything: ask whether it is still the same daemon."""
    idle: float = 0.25
    """Nothing was going on for so long: before more is sent, see whether anybody still listens."""
    late: float = 0.25
    """After a deadline: the daemon's own word on why it expired says more than ours."""


class Phase(Enum):
    """CLOSED → CONNECTING → GREETING → READY; from READY back to CONNECTING when the daemon went away."""

    CLOSED = "closed"
    CONNECTING = "connecting"
    GREETING = "greeting"
    READY = "ready"


ALLOWED_PHASES = {
    Phase.CLOSED: {Phase.CONNECTING},
    Phase.CONNECTING: {Phase.GREETING, Phase.CLOSED},
    Phase.GREETING: {Phase.READY, Phase.CONNECTING, Phase.CLOSED},
    Phase.READY: {Phase.CONNECTING, Phase.CLOSED},
}


@dataclass(frozen=True, slots=True)
class Open:
    """Connect a new socket; report ``opened``, or ``unreachable`` where nobody listens."""


@dataclass(frozen=True, slots=True)
class Probe:
    """See whether anybody listens; report ``reachable`` or ``unreachable``."""


@dataclass(frozen=True, slots=True)
class Close:
    """Drop the socket and whatever is in it."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request's two frames."""

    header: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Wake:
    """A call has a new outcome to take."""

    call: Call


Action = Open | Probe | Close | Send | Wake
