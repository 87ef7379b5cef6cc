"""What the daemon itself says while a storm goes on: how long each model's requests had nobody to serve them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from embeddaemon import Client
from embeddaemon.errors import EmbedDaemonError

_PERIOD_SECONDS = 0.2
_SPANS = ("unserved", "waiting", "loading", "unloading")


@dataclass(slots=True)
class Spans:
    """Of one model, seconds each: times during which something was so without a break."""

    unserved: list[float] = field(default_factory=list)
    """Requests waited, and no worker was ready."""
    waiting: list[float] = field(default_factory=list)
    """For memory; a part of the above where requests waited."""
    loading: list[float] = field(default_factory=list)
    """Starting, loading, or starting again after a kill; without the wait for memory."""
    unloading: list[float] = field(default_factory=list)


class Watch:
    """A thread that asks for the status until it is stopped."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        self._since: dict[tuple[str, str], float] = {}
        self.spans: dict[str, Spans] = {}
        self.lowest_headroom_bytes: int | None = None
        self.slowest_status_seconds = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Spans that have not ended are counted up to now."""
        self._finish.set()
        self._thread.join()
        for model, span in list(self._since):
            self._note(model, span, time.monotonic(), is_so=False)

    def _run(self) -> None:
        with Client(self._endpoint) as client:
            while not self._finish.wait(_PERIOD_SECONDS):
                asked_at = time.monotonic()
                with contextlib.suppress(EmbedDaemonError):
                    status = client.status(timeout=10)
                    self.slowest_status_seconds = max(self.slowest_status_seconds, time.monotonic() - asked_at)
                    self._take(status)

    def _take(self, status: Mapping[str, Any]) -> None:
        now = time.monotonic()
        headroom = int(status["memory"]["headroom_bytes"])
        self.lowest_headroom_bytes = min(headroom, self.lowest_headroom_bytes or headroom)
        for model in status["models"]:
            name, state = model["name"], model["state"]
            self._note(name, "unserved", now, is_so=model["queued"] > 0 and state != "ready")
            for span in _SPANS[1:]:
                self._note(name, span, now, is_so=state == span)

    def _note(self, model: str, span: str, now: float, *, is_so: bool) -> None:
        spans = self.spans.setdefault(model, Spans())
        if is_so:
            self._since.setdefault((model, span), now)
        elif (since := self._since.pop((model, span), None)) is not None:
            getattr(spans, span).append(now - since)
