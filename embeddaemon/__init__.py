"""embeddaemon: one process on the machine owns the embedding models, applications talk to it over a local socket.

    from embeddaemon import Client

    with Client() as client:
        vectors = client.embed(["first text", "second"])

The names below are the public ones. They are imported when they are first used: pyzmq and numpy cost a command that
only prints its help more than everything else in it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embeddaemon.client._actions import Patience as Patience
    from embeddaemon.client._connection import ClientClosed as ClientClosed
    from embeddaemon.client.aio import AsyncClient as AsyncClient
    from embeddaemon.client.local import local as local
    from embeddaemon.client.results import Embeddings as Embeddings
    from embeddaemon.client.results import Health as Health
    from embeddaemon.client.results import ModelInfo as ModelInfo
    from embeddaemon.client.results import ServerInfo as ServerInfo
    from embeddaemon.client.sync import Client as Client
    from embeddaemon.errors import BackingOff as BackingOff
    from embeddaemon.errors import BadOutput as BadOutput
    from embeddaemon.errors import Busy as Busy
    from embeddaemon.errors import Cancelled as Cancelled
    from embeddaemon.errors import ConfigError as ConfigError
    from embeddaemon.errors import CorruptModel as CorruptModel
    from embeddaemon.errors import DaemonUnreachable as DaemonUnreachable
    from embeddaemon.errors import Draining as Draining
    from embeddaemon.errors import EmbedDaemonError as EmbedDaemonError
    from embeddaemon.errors import Expired as Expired
    from embeddaemon.errors import Failed as Failed
    from embeddaemon.errors import FailedLoad as FailedLoad
    from embeddaemon.errors import Forbidden as Forbidden
    from embeddaemon.errors import HubUnreachable as HubUnreachable
    from embeddaemon.errors import InputTooLarge as InputTooLarge
    from embeddaemon.errors import InternalError as InternalError
    from embeddaemon.errors import Invalid as Invalid
    from embeddaemon.errors import InvalidInput as InvalidInput
    from embeddaemon.errors import ModelChanged as ModelChanged
    from embeddaemon.errors import ModelGated as ModelGated
    from embeddaemon.errors import ModelNotFound as ModelNotFound
    from embeddaemon.errors import NoHeadroom as NoHeadroom
    from embeddaemon.errors import Poisoned as Poisoned
    from embeddaemon.errors import ProtocolError as ProtocolError
    from embeddaemon.errors import Quarantined as Quarantined
    from embeddaemon.errors import Refused as Refused
    from embeddaemon.errors import RequestError as RequestError
    from embeddaemon.errors import TextTooLong as TextTooLong
    from embeddaemon.errors import UnknownDimensions as UnknownDimensions
    from embeddaemon.errors import UnknownModel as UnknownModel
    from embeddaemon.errors import UnknownTask as UnknownTask
    from embeddaemon.errors import UnsafeModel as UnsafeModel
    from embeddaemon.errors import UnsupportedModel as UnsupportedModel
    from embeddaemon.errors import UnsupportedVersion as UnsupportedVersion
    from embeddaemon.errors import WorkerCrashed as WorkerCrashed

    __version__: str

_ERRORS = (
    *("BackingOff", "BadOutput", "Busy", "Cancelled", "ConfigError", "CorruptModel", "DaemonUnreachable", "Draining"),
    *("EmbedDaemonError", "Expired", "Failed", "FailedLoad", "Forbidden", "HubUnreachable", "InputTooLarge"),
    *("InternalError", "Invalid", "InvalidInput", "ModelChanged", "ModelGated", "ModelNotFound", "NoHeadroom"),
    *("Poisoned", "ProtocolError", "Quarantined", "Refused", "RequestError", "TextTooLong", "UnknownDimensions"),
    *("UnknownModel", "UnknownTask", "UnsafeModel", "UnsupportedModel", "UnsupportedVersion", "WorkerCrashed"),
)

_HOMES = {
    "AsyncClient": "embeddaemon.client.aio",
    "Client": "embeddaemon.client.sync",
    "ClientClosed": "embeddaemon.client._connection",
    "Embeddings": "embeddaemon.client.results",
    "Health": "embeddaemon.client.results",
    "ModelInfo": "embeddaemon.client.results",
    "ServerInfo": "embeddaemon.client.results",
    "Patience": "embeddaemon.client._actions",
    "local": "embeddaemon.client.local",
} | dict.fromkeys(_ERRORS, "embeddaemon.errors")

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - all of them are strings


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = _version()
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - 20 ms, for those who ask

    try:
        return version("embeddaemon")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0.0.0+unknown"
