"""The variables EMBEDDAEMON_* as raw values. The mapping is passed in: only the command line reads the real one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from embeddaemon.config.given import Given, Key, Text, shown
from embeddaemon.config.model_source import split_model
from embeddaemon.config.options import ACCESS, DAEMON, LIMITS, PER_USER
from embeddaemon.errors import ConfigError

PREFIX = "EMBEDDAEMON_"
CONFIG_VARIABLE = "EMBEDDAEMON_CONFIG"
MODELS_VARIABLE = "EMBEDDAEMON_MODELS"
DEBUG_VARIABLE = "EMBEDDAEMON_DEBUG"

SERVER_KEY_VARIABLE = "EMBEDDAEMON_SERVER_KEY"
KEY_FILE_VARIABLE = "EMBEDDAEMON_KEY_FILE"

VARIABLES: Mapping[str, Key] = (
    {PREFIX + key.upper(): ("daemon", key) for key in DAEMON}
    | {PREFIX + key.upper(): ("limits", key) for key in LIMITS}
    | {f"{PREFIX}ACCESS_{key.upper()}": ("access", key) for key in ACCESS}
    | {f"{PREFIX}PER_USER_{key.upper()}": ("per_user", key) for key in PER_USER}
)
_OF_CLIENTS = (SERVER_KEY_VARIABLE, KEY_FILE_VARIABLE)
"""What a client reads, in the same environment (client/_wire.py)."""
_OTHERS = (CONFIG_VARIABLE, MODELS_VARIABLE, DEBUG_VARIABLE, *_OF_CLIENTS)
_FOREIGN = (PREFIX + "TEST_", PREFIX + "SERVICE_", PREFIX + "PORT")
"""Of our test suite, and what Kubernetes sets in every container beside a service called embeddaemon."""


@dataclass(frozen=True, slots=True)
class Variables:
    """What the environment says."""

    values: Mapping[Key, Given]
    ignored: tuple[str, ...]
    """Variables with our prefix that we do not know; shown by ``config check``."""


def read(environment: Mapping[str, str], folder: Path) -> Variables:
    """The raw values. An empty variable counts as not set. Raises ConfigError for a name that is nearly one of ours."""
    values: dict[Key, Given] = {}
    ignored: list[str] = []
    for name, value in sorted(environment.items()):
        if not name.startswith(PREFIX) or not value or name in {CONFIG_VARIABLE, DEBUG_VARIABLE, *_OF_CLIENTS}:
            continue
        if name == MODELS_VARIABLE:
            values |= _models(value, folder)
        elif name in VARIABLES:
            values[VARIABLES[name]] = Given(Text(value), f"environment {name}", folder)
        elif name.startswith(_FOREIGN):
            ignored.append(name)
        else:
            _refuse_misspelt(name)
            ignored.append(name)
    return Variables(values, tuple(ignored))


def _models(written: str, folder: Path) -> dict[Key, Given]:
    values: dict[Key, Given] = {}
    origin = f"environment {MODELS_VARIABLE}"
    for pair in filter(None, (part.strip() for part in written.split(","))):
        name, source = split_model(pair, origin)
        key = ("models", name, "source")
        if key in values:
            raise ConfigError(f"{origin}: model {shown(name)} is named twice")
        values[key] = Given(Text(source), origin, folder)
    return values


def _refuse_misspelt(name: str) -> None:
    # Only what is close to ours: orchestrators set variables that begin like ours and mean nothing here.
    close = get_close_matches(name, (*VARIABLES, *_OTHERS), n=1, cutoff=0.88)
    if close:
        raise ConfigError(f"environment: unknown variable {name}: did you mean {close[0]}?")
