"""What a request may ask of a model: its tasks, its dimensions, the precisions of an answer. Pure.

Asked by the supervisor at admission, and by the worker of the card that it has loaded, which may be a newer one.
"""

from __future__ import annotations

from embeddaemon.errors import InvalidInput, UnknownDimensions, UnknownTask
from embeddaemon.models.card import ModelCard
from embeddaemon.protocol.messages import Embed, ModelRequest
from embeddaemon.protocol.precisions import PRECISIONS

OUTPUT_PRECISIONS = tuple(PRECISIONS)
"""Of the vectors in an answer."""


def check_precision(request: ModelRequest) -> None:
    """Raises InvalidInput with the list. Depends on no model."""
    if isinstance(request, Embed) and request.precision not in OUTPUT_PRECISIONS:
        offered = list(OUTPUT_PRECISIONS)
        raise InvalidInput(
            f"precision {request.precision!r} is not offered; offered are {', '.join(offered)}",
            details={"offered": offered},
        )


def check_prompt(request: ModelRequest) -> None:
    """Raises InvalidInput for a request that says twice what goes before its texts. Depends on no model."""
    if request.task is not None and request.prompt is not None:
        raise InvalidInput("a request names a task or brings a prompt of its own, not both")


def check_task(request: ModelRequest, card: ModelCard) -> None:
    """Raises UnknownTask with the list."""
    if request.task is not None and request.task not in card.prompts:
        known = sorted(card.prompts)
        offered = f"known are {', '.join(known)}" if known else "it has none"
        raise UnknownTask(
            f"model {card.name!r} has no task {request.task!r}; {offered}",
            details={"known": known},
        )


def check_dimensions(request: ModelRequest, card: ModelCard) -> None:
    """Raises UnknownDimensions with the list, the model's own among them."""
    if not isinstance(request, Embed) or request.dimensions is None:
        return
    offered = sorted({card.dim, *card.dimensions}, reverse=True)
    if request.dimensions not in offered:
        raise UnknownDimensions(
            f"model {card.name!r} does not offer {request.dimensions} dimensions; "
            f"offered are {', '.join(map(str, offered))}",
            details={"offered": offered},
        )
