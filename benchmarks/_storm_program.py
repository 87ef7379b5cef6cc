"""The real daemon with the engine of _storm_engine.py: a program, ``python -m benchmarks._storm_program SETTINGS``.

SETTINGS is JSON: the fields of ``Settings`` by name, ``models`` a list of the fields of ``ModelSpec``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from embeddaemon.config.settings import Settings
from embeddaemon.models.spec import ModelSpec, WorkerBounds
from embeddaemon.supervisor.loop import run
from embeddaemon.telemetry.logs import setup

_FORK_SERVER = (sys.executable, "-m", "benchmarks._storm_engine")


def settings_from(argument: str) -> Settings:
    """As StormDaemon writes them."""
    values = json.loads(argument)
    models = tuple(_spec(model) for model in values.pop("models"))
    return Settings(models=models, default_model=models[0].name, **values)


def _spec(values: dict[str, Any]) -> ModelSpec:
    workers = WorkerBounds(**values.pop("workers", {}))
    return ModelSpec(workers=workers, **values)


if __name__ == "__main__":
    setup("json", "info")
    sys.exit(run(settings_from(sys.argv[1]), fork_server_command=_FORK_SERVER))
