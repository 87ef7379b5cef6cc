"""One client of many, a program: ``python tests/support/load_client.py ENDPOINT SECONDS SEED REFERENCE``.

Embeds random picks of known texts for SECONDS and compares every vector with REFERENCE (an .npz of ``texts`` and
``vectors``). Prints one JSON line: calls, texts, the largest distance, and what went wrong.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2])
)  # a program: its own folder is on the path, the root is not

import numpy as np

from embeddaemon import Client
from embeddaemon.errors import EmbedDaemonError

MOST_TEXTS = 200


def main(endpoint: str, duration: float, seed: int, reference: str) -> dict[str, Any]:
    known = np.load(reference)
    texts, vectors = known["texts"].tolist(), known["vectors"]
    choose = random.Random(seed)
    calls = answered = 0
    distance = 0.0
    errors: list[str] = []
    until = time.monotonic() + duration
    with Client(endpoint, timeout=60.0) as client:
        while time.monotonic() < until:
            size = choose.choice((1, 1, 1, 4, 16, choose.randrange(1, MOST_TEXTS)))
            picks = [choose.randrange(len(texts)) for _ in range(size)]
            calls += 1
            try:
                answer = client.embed([texts[pick] for pick in picks])
            except EmbedDaemonError as error:
                errors.append(f"{error.code}: {error}")
                continue
            answered += size
            distance = max(distance, float(1 - (answer * vectors[picks]).sum(axis=1).min()))
    return {"calls": calls, "texts": answered, "distance": distance, "errors": errors[:5], "error_count": len(errors)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
