"""The real daemon with the stub engine: a program, ``python tests/support/stub_daemon.py SETTINGS``.

SETTINGS is JSON: the fields of ``Settings`` by name, ``models`` a list of the fields of ``ModelSpec``; ``engine`` is
``stub`` (the default) or ``torch``; ``growth_bytes`` limits every worker to that growth from the moment it is ready.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a program: its own folder is on the path, the root is not

from embeddaemon.config.settings import HardLimits, Settings, StartMethod  # noqa: E402
from embeddaemon.models.spec import ModelSpec, WorkerBounds  # noqa: E402
from embeddaemon.protocol import link  # noqa: E402
from embeddaemon.protocol.limits import Limits  # noqa: E402
from embeddaemon.supervisor import loop  # noqa: E402
from embeddaemon.supervisor.commands import Command, LimitMemory  # noqa: E402
from embeddaemon.supervisor.core import Supervisor  # noqa: E402
from embeddaemon.supervisor.events import Event, WorkerSaid  # noqa: E402
from embeddaemon.telemetry.logs import setup  # noqa: E402

_SUPPORT = ROOT / "tests" / "support"


def _spec(values: dict[str, Any]) -> ModelSpec:
    if "workers" in values:
        values["workers"] = WorkerBounds(**values["workers"])
    return ModelSpec(**values)


def limit_workers(growth_bytes: int) -> None:
    """The core's own limits follow leases; these are as small as a test wants them."""

    class Limiting(Supervisor):
        def handle(self, event: Event, now: float) -> list[Command]:
            commands: list[Command] = []
            if isinstance(event, WorkerSaid) and isinstance(event.message, link.Ready):
                number, incarnation = event.message.worker, event.message.incarnation
                for worker in self._state.workers.values():
                    if (worker.number, worker.incarnation) == (number, incarnation):
                        commands = [LimitMemory(worker.child, growth_bytes)]
            return [*super().handle(event, now), *commands]

    loop.Supervisor = Limiting  # type: ignore[attr-defined]  # a hook of this program alone


def main(argument: str) -> int:
    values = json.loads(argument)
    engine = values.pop("engine", "stub")
    values["models"] = tuple(_spec(model) for model in values["models"])
    values.setdefault("default_model", values["models"][0].name)
    if "limits" in values:
        values["limits"] = Limits(**values["limits"])
    if "start_method" in values:
        values["start_method"] = StartMethod(values["start_method"])
    if "hard_limits" in values:
        values["hard_limits"] = HardLimits(values["hard_limits"])
    if (growth_bytes := values.pop("growth_bytes", None)) is not None:
        limit_workers(growth_bytes)
    setup("text", "debug")
    settings = Settings(**values)
    if engine == "torch":
        return loop.run(settings)
    return loop.run(
        settings,
        fork_server_command=(sys.executable, str(_SUPPORT / "stub_fork_server.py")),
        spawn_command=(sys.executable, str(_SUPPORT / "stub_spawned_worker.py"), "--spawn"),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
