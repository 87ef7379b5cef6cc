"""Requests with a text that the engine obeys (stub_engine.py has the commands), and loads and unloads, in a storm."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from embeddaemon import Client
from embeddaemon.errors import EmbedDaemonError
from tests.support.chaos_daemon import ChaosDaemon
from tests.support.chaos_tally import Tally

_AT_ONCE = 8
_TIMEOUT_SECONDS = 6.0
_SERVED = ("stall", "hold gil", "eat", "raise memory")
"""Commands after which there may be a vector all the same."""


class Provoker:
    """Asks in the background; ``tally`` has how it ended. Nothing of it is compared: the texts mean what they do."""

    def __init__(self, daemon: ChaosDaemon, models: Sequence[str], seed: int) -> None:
        self.tally = Tally()
        self._daemon = daemon
        self._models = models
        self._choose = random.Random(f"{seed} provoker")
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="provoker")
        self._running: list[Future[None]] = []

    def tell(self, command: str, *, then_unload: bool = False) -> bool:
        """Send it among others' texts; False when too many of them are under way."""
        model = self._choose.choice(self._models)
        texts = [f"beside it {number}" for number in range(self._choose.choice((0, 0, 3, 20)))]
        # Half of them come again, as the text of a client that does not give up does.
        serial = self._choose.randrange(10) if self._choose.random() < 0.5 else self._choose.getrandbits(32)
        texts.insert(self._choose.randint(0, len(texts)), f"{command} {serial}")
        if not self._submit(lambda client: self._embed(client, texts, command, model)):
            return False
        if then_unload:
            self._submit(lambda client: self._change(client, model, "unload"))
        return True

    def reload(self) -> None:
        """Away and back."""
        model = self._choose.choice(self._models)

        def change(client: Client) -> None:
            self._change(client, model, "unload")
            self._change(client, model, "load")

        self._submit(change)

    def _submit(self, act: Callable[[Client], None]) -> bool:
        self._running = [each for each in self._running if not each.done()]
        if len(self._running) >= _AT_ONCE:
            return False

        def run() -> None:
            with Client(self._daemon.endpoint, timeout=_TIMEOUT_SECONDS) as client:
                act(client)

        self._running.append(self._pool.submit(run))
        return True

    def _embed(self, client: Client, texts: list[str], command: str, model: str) -> None:
        begun = time.monotonic()
        self.tally.begun += 1
        try:
            client.embed(texts, model=model, timeout=_TIMEOUT_SECONDS)
        except EmbedDaemonError as error:
            self._ended(error.code, begun, command)
        else:
            self._ended("answered", begun, command)
            if not command.startswith(_SERVED):
                self.tally.complain(f"{command!r} of {model} was answered with a vector")

    def _change(self, client: Client, model: str, operation: str) -> None:
        begun = time.monotonic()
        self.tally.begun += 1
        try:
            (client.unload if operation == "unload" else client.load)(model, timeout=_TIMEOUT_SECONDS)
        except EmbedDaemonError as error:
            self._ended(error.code, begun, operation)
        else:
            self._ended("answered", begun, operation)

    def _ended(self, how: str, begun: float, what: str) -> None:
        self.tally.ended(how, time.monotonic() - begun - _TIMEOUT_SECONDS, f"provoked: {what}")

    def close(self) -> None:
        """Waits for what is under way; raises what went wrong in it."""
        self._pool.shutdown()
        for each in self._running:
            each.result()
