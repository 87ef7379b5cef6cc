"""``models inspect --load``: loads a model in a child process, sends one text through it and says what came of it.

What the headers of the weights cannot show, this does. The child is this module as a program: the order comes as JSON
on standard input, the answer goes as JSON to standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from embeddaemon.cli.serve import DAEMON_MODULES
from embeddaemon.errors import EmbedDaemonError, FailedLoad
from embeddaemon.models.card import ModelCard
from embeddaemon.models.order import LoadOrder, order_from_map
from embeddaemon.models.spec import ModelSpec
from embeddaemon.protocol import error_codec
from embeddaemon.protocol.limits import Limits

TEXT = "A text to try the model with."


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A model that was loaded, and computed one text."""

    dim: int
    precision: str
    device: str
    load_seconds: float
    embed_seconds: float


def try_to_load(spec: ModelSpec, card: ModelCard) -> Tried:
    """Raises what the load raises, and FailedLoad when the child ends otherwise."""
    order = LoadOrder(
        card=card, device=spec.device, precision=spec.precision, token_budget=spec.token_budget, limits=Limits()
    )
    done = subprocess.run(
        [sys.executable, "-m", "embeddaemon.cli.model_load"],
        input=json.dumps(order.as_map()).encode(),
        stdout=subprocess.PIPE,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        check=False,
    )
    if done.returncode or not done.stdout:
        raise FailedLoad(
            f"the process that loaded {card.name} ended with {done.returncode}; the lines above say why. "
            f"Needed are {', '.join(DAEMON_MODULES)}, and memory for the model"
        )
    answer = json.loads(done.stdout)
    if "code" in answer:
        raise error_codec.error_from_map(answer)
    return Tried(**answer)


def main() -> None:
    """The child."""
    order = order_from_map(json.load(sys.stdin))
    try:
        answer = asdict(_try(order))
    except EmbedDaemonError as error:
        answer = error_codec.error_to_map(error)
    json.dump(answer, sys.stdout)


def _try(order: LoadOrder) -> Tried:
    # Here and not above: the engine imports torch, which the parent must not have.
    import numpy as np  # noqa: PLC0415

    from embeddaemon.workers.engines.torch_engine import load  # noqa: PLC0415

    begun = time.monotonic()
    model = load(order)
    loaded = time.monotonic()
    (text,) = model.tokenize([TEXT], prompt="", max_tokens=order.card.max_tokens)
    lengths = np.array([len(text.ids)], dtype=np.int32)
    vector = model.project(model.forward(text.ids, lengths, None), order.card.dim)[0, : order.card.dim]
    if not np.isfinite(vector).all():
        raise FailedLoad(f"{order.card.name} was loaded, and gives numbers that are not finite")
    return Tried(
        dim=len(vector),
        precision=model.facts.precision,
        device=model.facts.device,
        load_seconds=round(loaded - begun, 3),
        embed_seconds=round(time.monotonic() - loaded, 3),
    )


if __name__ == "__main__":
    main()
