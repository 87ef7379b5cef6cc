"""The kernel's word that tasks wait for memory, as an event of the loop. I/O.

Where the kernel gives no such word there is no event: samples are taken every second anyhow while anything lives.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import zmq

from embeddaemon.supervisor.events import StallNoticed


class StallWatch:
    """Owns the descriptor of a stall trigger (governor/stalls.py), if there is one."""

    def __init__(self, trigger: int | None) -> None:
        self._trigger = trigger

    def register(self, poller: zmq.Poller) -> None:
        """Have the loop wait for it too."""
        if self._trigger is not None:
            poller.register(self._trigger, zmq.POLLPRI)

    def read(self, poller: zmq.Poller, ready: Mapping[Any, int]) -> StallNoticed | None:
        """What the trigger said. Polling took its word: the kernel repeats it at most once in two seconds.

        The trigger of a cgroup that was removed would be ready for ever: it is given up.
        """
        said = 0 if self._trigger is None else ready.get(self._trigger, 0)
        if not said:
            return None
        if said & zmq.POLLERR:
            poller.unregister(self._trigger)
            self.close()
            return None
        return StallNoticed() if said & zmq.POLLPRI else None

    def close(self) -> None:
        """Nothing is watched any more."""
        if self._trigger is not None:
            os.close(self._trigger)
            self._trigger = None
