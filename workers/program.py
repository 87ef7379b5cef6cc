"""``EngineProgram``: what the processes need of an engine, as functions, so that they themselves import none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embeddaemon.models.order import LoadOrder
from embeddaemon.workers.engines import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProgram:
    """An engine seen from outside. The real one is ``preload.torch_program()``; tests have one without torch."""

    preload: Callable[[], Sequence[str]]
    """Imports all that a worker will ever need, computes nothing, and names the modules that must be there now."""
    use_one_thread: Callable[[], None]
    """Before the first operator of a process that will fork."""
    load: Callable[[LoadOrder], LoadedModel]
    fetch: Callable[[str], str]
    """Brings a source into the local cache and gives its folder."""


def torch_program() -> EngineProgram:
    """The torch engine. Its import waits until ``preload`` is called, when the process is guarded."""
    return EngineProgram(preload=_preload, use_one_thread=_use_one_thread, load=_load, fetch=_fetch)


def _preload() -> Sequence[str]:
    from embeddaemon.workers.engines import torch_engine  # noqa: PLC0415
    from embeddaemon.workers.engines.torch_engine import threads  # noqa: PLC0415

    torch_engine.preload()
    return ("torch", "transformers", "tokenizers", torch_engine.__name__, threads.__name__)


def _use_one_thread() -> None:
    from embeddaemon.workers.engines.torch_engine.threads import use_one_thread  # noqa: PLC0415

    use_one_thread()


def _load(order: LoadOrder) -> LoadedModel:
    from embeddaemon.workers.engines import torch_engine  # noqa: PLC0415

    return torch_engine.load(order)


def _fetch(source: str) -> str:
    from embeddaemon.workers.fetch import fetch  # noqa: PLC0415

    return str(fetch(source))
