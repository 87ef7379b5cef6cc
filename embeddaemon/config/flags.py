"""``Flags``: what was given on the command line of ``serve``, as raw values."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from embeddaemon.config.given import Given, Key, Text, shown
from embeddaemon.config.model_source import split_model
from embeddaemon.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """Every field but ``models`` is a key of [daemon]; None: not given."""

    models: tuple[str, ...] = ()
    """``NAME=SOURCE``, as written."""
    endpoint: str | None = None
    default_model: str | None = None
    memory_budget: str | None = None
    start_method: str | None = None
    log_format: str | None = None
    log_level: str | None = None
    exit_with_parent: bool | None = None
    parent_pid: int | None = None

    def as_given(self, folder: Path) -> dict[Key, Given]:
        """The raw values. Raises ConfigError for a model named twice or without source."""
        values: dict[Key, Given] = {}
        for pair in self.models:
            name, source = split_model(pair, "flag --model")
            key = ("models", name, "source")
            if key in values:
                raise ConfigError(f"flag --model: model {shown(name)} is named twice")
            values[key] = Given(Text(source), "flag --model", folder)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "models" and value is not None:
                origin = f"flag --{field.name.replace('_', '-')}"
                values["daemon", field.name] = Given(Text(value) if isinstance(value, str) else value, origin, folder)
        return values
