"""Clients in a storm, a program: ``python tests/support/chaos_client.py PLAN``, with a `Plan` as JSON.

Threads with ``Client``, tasks with one ``AsyncClient``, and clients that speak the protocol by themselves: they see
every answer that comes, also a second one. All of them ask for known texts until the time is over, compare every
vector, and look at the clock when a request ends. Prints one `Tally` as JSON.
"""

from __future__ import annotations

import asyncio
import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2])
)  # a program: its own folder is on the path, the root is not

from embeddaemon import AsyncClient, Client
from embeddaemon.errors import EmbedDaemonError
from tests.support.chaos_asker import Asker, Pulse
from tests.support.chaos_tally import Plan, Tally, plan_from
from tests.support.chaos_wire import WireClient


def ask_in_thread(asker: Asker, is_over: Callable[[], bool]) -> None:
    """One ``Client``; a new one now and then, as short programs have."""
    wait = threading.Event()
    while not is_over():
        with Client(asker.plan.endpoint) as client:
            for _ in range(asker.choose.choice((1, 5, 50))):
                if is_over():
                    return
                ask, begun = asker.next(), time.monotonic()
                try:
                    vectors = client.embed(asker.texts_of(ask), model=ask.model, timeout=ask.timeout)
                except EmbedDaemonError as error:
                    asker.failed(ask, begun, error)
                else:
                    asker.answered(ask, begun, vectors)
                wait.wait(asker.pause())


async def ask_in_task(asker: Asker, client: AsyncClient, is_over: Callable[[], bool]) -> None:
    """One of the tasks that share an ``AsyncClient``."""
    while not is_over():
        ask, begun = asker.next(), time.monotonic()
        try:
            vectors = await client.embed(asker.texts_of(ask), model=ask.model, timeout=ask.timeout)
        except EmbedDaemonError as error:
            asker.failed(ask, begun, error)
        else:
            asker.answered(ask, begun, vectors)
        await asyncio.sleep(asker.pause())


async def ask_in_tasks(askers: Sequence[Asker], is_over: Callable[[], bool]) -> None:
    """All tasks of one loop."""
    async with AsyncClient(askers[0].plan.endpoint) as client, asyncio.TaskGroup() as group:
        for asker in askers:
            group.create_task(ask_in_task(asker, client, is_over))


def main(plan: Plan) -> Tally:
    """Run all clients of the plan; what they counted together."""
    until = time.monotonic() + plan.seconds
    # Whoever waits for ever shows where.
    faulthandler.dump_traceback_later(plan.seconds + max(plan.timeouts) + 20)

    def is_over() -> bool:
        return time.monotonic() >= until

    pulse = Pulse()
    pulse.start()
    kinds = ["AsyncClient"] * plan.tasks + ["Client"] * plan.threads + ["wire"] * plan.wires
    askers = [Asker(plan, plan.seed * 1000 + number, pulse, kind) for number, kind in enumerate(kinds)]
    in_tasks, rest = askers[: plan.tasks], askers[plan.tasks :]
    threads = [threading.Thread(target=ask_in_thread, args=(asker, is_over)) for asker in rest[: plan.threads]]
    threads += [threading.Thread(target=WireClient(asker).run, args=(is_over,)) for asker in rest[plan.threads :]]
    for thread in threads:
        thread.start()
    if in_tasks:
        asyncio.run(ask_in_tasks(in_tasks, is_over))
    for thread in threads:
        thread.join()
    total = Tally()
    for asker in askers:
        total.merge(asker.tally)
    return total


if __name__ == "__main__":
    sys.stdout.write(main(plan_from(sys.argv[1])).as_text())
