"""The governor of this machine: a budget for host memory and one for each card, as the settings say. I/O."""

from __future__ import annotations

from embeddaemon.config.settings import Settings
from embeddaemon.errors import ConfigError
from embeddaemon.governor.budget import budget_from
from embeddaemon.governor.core import FORK_SERVER, Governor
from embeddaemon.governor.probes import Probe
from embeddaemon.supervisor.requests.cache import CACHE


def governor_for(settings: Settings, probe: Probe) -> Governor:
    """Asks the probe what there is. Raises ConfigError, naming the key, for a budget that is more."""
    host = budget_from(settings.memory_budget, probe.limit(), settings.memory_reserve)
    cards = []
    for device, limit in probe.device_limits().items():
        try:
            cards.append(budget_from(settings.gpu_memory_budget, limit, device=device))
        except ConfigError as error:
            raise ConfigError(f"daemon.gpu_memory_budget for {device}: {error.message}") from error
    return Governor(
        host,
        *cards,
        permanent=frozenset({FORK_SERVER, CACHE}),
        minimum_residence_seconds=settings.min_residence_seconds,
    )
