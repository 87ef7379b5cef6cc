"""The real daemon with the stub engine: a program, ``python tests/support/stub_daemon.py SETTINGS``.

SETTINGS is JSON: the fields of ``Settings`` by name, ``models`` a list of the fields of ``ModelSpec``; ``engine`` is
        return run(settings, service=service, source=source)
    if engine == "obedient":
        command = (sys.executable, str(_SUPPORT / "obedient_fork_server.py"))
        return run(settings, fork_server_command=command, service=service, source=source)
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a program: its own folder is on the path, the root is not

from embeddaemon.config.flags import Flags  # noqa: E402
from embeddaemon.config.loading import load  # noqa: E402
from embeddaemon.config.settings import AccessSettings, HardLimits, Quotas, Settings, StartMethod  # noqa: E402
from embeddaemon.models.spec import ModelSpec, WorkerBounds  # noqa: E402
from embeddaemon.protocol.limits import Limits  # noqa: E402
from embeddaemon.supervisor.changes.configuration import Source  # noqa: E402
from embeddaemon.supervisor.loop import run  # noqa: E402
from embeddaemon.supervisor.surroundings.service import service_of  # noqa: E402
from embeddaemon.telemetry.logs import setup  # noqa: E402

_SUPPORT = ROOT / "tests" / "support"


def _spec(values: dict[str, Any]) -> ModelSpec:
    if "workers" in values:
        values["workers"] = WorkerBounds(**values["workers"])
    return ModelSpec(**values)


def main(argument: str) -> int:
    values = json.loads(argument)
    _shorten(values.pop("shorter", {}))
    if "config_file" in values:
        return configured(values)
    engine = values.pop("engine", "stub")
    values["models"] = tuple(_spec(model) for model in values["models"])
    values.setdefault("default_model", values["models"][0].name)
    if "limits" in values:
        values["limits"] = Limits(**values["limits"])
    if "access" in values:
        values["access"] = AccessSettings(**values["access"])
    if "per_user" in values:
        values["per_user"] = Quotas(**values["per_user"])
    if "start_method" in values:
        values["start_method"] = StartMethod(values["start_method"])
    if "hard_limits" in values:
        values["hard_limits"] = HardLimits(values["hard_limits"])
    setup("text", "debug")
    settings = Settings(**values)
    return _run(settings, Source(), engine)


def _shorten(waits: dict[str, float]) -> None:
    """Waits that are constants of the daemon and no settings; ``waits`` by module below ``embeddaemon`` and name."""
    for name, duration in waits.items():
        module, _, constant = name.rpartition(".")
        there = importlib.import_module(f"embeddaemon.{module}")
        assert 0 < duration <= getattr(there, constant)
        setattr(there, constant, duration)


def configured(values: dict[str, Any]) -> int:
    """A daemon that reads its configuration from a file, and may read it again."""
    path = Path(values["config_file"])
    read = partial(
        load,
        config_file=path,
        environment={"STATE_DIRECTORY": str(path.parent)},
        flags=Flags(endpoint=values["endpoint"]),
    )
    loaded = read()
    setup("text", loaded.settings.log_level)
    return _run(loaded.settings, Source(read, (str(path),)), values.get("engine", "stub"))


def _run(settings: Settings, source: Source, engine: str) -> int:
    service = service_of(os.environ, os.getpid())
    if engine == "torch":
        return run(settings, service=service, source=source)
    if engine == "obedient":
        command = (sys.executable, str(_SUPPORT / "obedient_fork_server.py"))
        return run(settings, fork_server_command=command, service=service, source=source)
    return run(
        settings,
        fork_server_command=(sys.executable, str(_SUPPORT / "stub_fork_server.py")),
        spawn_command=(sys.executable, str(_SUPPORT / "stub_spawned_worker.py"), "--spawn"),
        service=service,
        source=source,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
