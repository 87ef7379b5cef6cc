"""``load``: files, environment and flags, later over earlier, to ``Settings`` and where each value came from.

Whatever is given, the outcome is settings or a ConfigError that names file, key, value and what is allowed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embeddaemon.config import environment as variables
from embeddaemon.config import file
from embeddaemon.config.bundled import bundled_model
from embeddaemon.config.flags import Flags
from embeddaemon.config.given import Given, Key, dotted, mistake
from embeddaemon.config.kinds import Wrong, did_you_mean
from embeddaemon.config.model_source import check_name, parse_source
from embeddaemon.config.options import ACCESS, DAEMON, LIMITS, MODEL, PER_USER, Option
from embeddaemon.config.settings import AccessSettings, Quotas, Settings
from embeddaemon.config.state_folder import SYSTEM_STATE_FOLDER, state_folder
from embeddaemon.errors import ConfigError
from embeddaemon.models.spec import ModelSpec
from embeddaemon.protocol.endpoints import user_socket
from embeddaemon.protocol.limits import Limits

_ON_CPU = ("auto", "bfloat16", "float32", "int8")
_ON_ACCELERATORS = ("auto", "bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and their story."""

    settings: Settings
    given: Mapping[Key, Given]
    """What somebody wrote, and where; what is missing is a default."""
    files: tuple[Path, ...]
    """The files that were read, absolute, in order; later ones go before earlier ones."""
    ignored: tuple[str, ...]
    """Variables that begin like ours and mean nothing to us."""

    @property
    def origins(self) -> Mapping[Key, str]:
        """Where each value that somebody wrote came from."""
        return {key: one.origin for key, one in self.given.items()}


def load_settings(*, config_file: Path | None, environment: Mapping[str, str], flags: Flags) -> Settings:
    """The settings of ``load``, without their story."""
    return load(config_file=config_file, environment=environment, flags=flags).settings


def load(
    *,
    config_file: Path | None,
    environment: Mapping[str, str],
    flags: Flags,
    folder: Path | None = None,
    system_file: Path = file.SYSTEM_FILE,
    uid: int | None = None,
) -> Loaded:
    """Reads the file that is named (or the system's and the user's), then the environment, then the flags.

    ``folder`` is what relative paths outside files are relative to (the current one), ``uid`` whose socket is the
    default. Raises ConfigError.
    """
    folder = Path.cwd() if folder is None else folder
    files, given = _read_files(config_file, environment, system_file)
    from_environment = variables.read(environment, folder)
    given |= from_environment.values
    given |= flags.as_given(folder)
    settings = _settings(given, environment, os.getuid() if uid is None else uid)
    return Loaded(settings, given, tuple(folder / path for path in files), from_environment.ignored)


def _read_files(
    config_file: Path | None, environment: Mapping[str, str], system_file: Path
) -> tuple[list[Path], dict[Key, Given]]:
    if config_file is None and (named := environment.get(variables.CONFIG_VARIABLE)):
        config_file = Path(named)
    if config_file is not None:
        return [config_file], file.read(config_file)
    files: list[Path] = []
    given: dict[Key, Given] = {}
    for path in filter(None, (system_file, file.user_file(environment))):
        if (values := file.read_if_there(path)) is not None:
            files.append(path)
            given |= values
    return files, given


def _settings(given: Mapping[Key, Given], environment: Mapping[str, str], uid: int) -> Settings:
    values = _checked(("daemon",), given, DAEMON)
    # The daemon makes its own socket. The system's, where there is one, belongs to somebody else.
    values.setdefault("endpoint", f"ipc://{user_socket(environment, uid)}")
    folder = state_folder(environment, uid, _owner_of(SYSTEM_STATE_FOLDER))
    values["state_folder"] = None if folder is None else str(folder)
    values["limits"] = _limits(given)
    values["access"] = AccessSettings(**_checked(("access",), given, ACCESS) | _key_paths(given))
    values["per_user"] = Quotas(**_checked(("per_user",), given, PER_USER))
    values["models"] = models = _models(given, environment.get("HOME"))
    values.setdefault("default_model", models[0].name)
    settings = Settings(**values)
    _check_together(settings, given)
    return settings


def _owner_of(folder: Path) -> int | None:
    try:
        return folder.stat().st_uid
    except OSError:
        return None


def _checked(prefix: Key, given: Mapping[Key, Given], options: Mapping[str, Option]) -> dict[str, Any]:
    """Field to value, of the keys that were given."""
    values: dict[str, Any] = {}
    for name, option in options.items():
        key = (*prefix, name)
        if key in given:
            values[option.field] = _value(key, given[key], option)
    return values


def _value(key: Key, given: Given, option: Option) -> object:
    try:
        return option.kind(given.value)
    except Wrong as error:
        raise mistake(key, given, str(error)) from None
    except ConfigError as error:  # of those who own the kind: endpoints say themselves what they may be
        raise mistake(key, given, error.message) from error


def _limits(given: Mapping[Key, Given]) -> Limits:
    limits = Limits(**_checked(("limits",), given, LIMITS))
    if limits.max_text_bytes > limits.max_body_bytes:
        raise ConfigError(
            f"limits.max_text_bytes is {limits.max_text_bytes} and limits.max_body_bytes {limits.max_body_bytes}: "
            "a body must have room for a text; raise max_body_bytes or lower max_text_bytes"
        )
    return limits


def _key_paths(given: Mapping[Key, Given]) -> dict[str, str]:
    """Where the keys are; a relative path is relative to the file that it was written in."""
    keys = [("access", name) for name in ("key_file", "client_keys")]
    return {key[1]: str(given[key].folder / Path(str(given[key].value))) for key in keys if key in given}


def _models(given: Mapping[Key, Given], home: str | None) -> tuple[ModelSpec, ...]:
    names = dict.fromkeys(key[1] for key in given if key[0] == "models")
    if not names:
        return (bundled_model(),)
    return tuple(_model(name, given, home) for name in names)


def _model(name: str, given: Mapping[Key, Given], home: str | None) -> ModelSpec:
    prefix = ("models", name)
    origin = next(one.origin for key, one in given.items() if key[:2] == prefix)
    try:
        check_name(name)
    except Wrong as error:
        raise ConfigError(f"{origin}: {dotted(prefix)}: {error}") from None
    source = given.get((*prefix, "source"))
    if source is None:
        raise ConfigError(
            f'{origin}: {dotted((*prefix, "source"))} is missing: a model needs a source, as "path:/models/{name}"'
        )
    values = _checked(prefix, given, MODEL)
    try:
        values["source"] = parse_source(source.value, source.folder, home)
    except Wrong as error:
        raise mistake((*prefix, "source"), source, str(error)) from None
    spec = ModelSpec(name=name, **values)
    _check_task(spec, given)
    if spec.device != "auto":
        check_precision(spec, spec.device, given)
    return spec


def _check_task(spec: ModelSpec, given: Mapping[Key, Given]) -> None:
    key = ("models", spec.name, "default_task")
    if spec.default_task is not None and spec.prompts is not None and spec.default_task not in spec.prompts:
        known = ", ".join(sorted(spec.prompts)) or "none"
        raise mistake(key, given[key], f"is not a task of this model's prompts; known are {known}")


def check_precision(spec: ModelSpec, device: str, given: Mapping[Key, Given]) -> None:
    """Raises ConfigError for a precision that nothing computes on ``device``: the model's own, or what ``auto`` is."""
    served = _ON_CPU if device == "cpu" else _ON_ACCELERATORS
    if spec.precision in served:
        return
    key = ("models", spec.name, "precision")
    where = device if spec.device == device else f"{device}, which is device {spec.device!r} here"
    raise mistake(key, given[key], f"is not computed on {where}; allowed there are {', '.join(served)}")


def _check_together(settings: Settings, given: Mapping[Key, Given]) -> None:
    """What no key alone can say."""
    names = [spec.name for spec in settings.models]
    key = ("daemon", "default_model")
    if settings.default_model not in names:
        raise mistake(key, given[key], f"is not a configured model; {did_you_mean(settings.default_model, names)}")
    if settings.silent_after_seconds < 2 * settings.heartbeat_seconds:
        raise ConfigError(
            f"daemon.silent_timeout is {settings.silent_after_seconds:g} s and daemon.heartbeat_interval "
            f"{settings.heartbeat_seconds:g} s: the first must be at least twice the second"
        )
