"""Runs one peer in its own environment: ``python -m benchmarks.peers.host NAME``, orders and answers as lines of JSON.

Texts come with the order and are decoded before the clock starts; vectors are encoded after it has stopped. What is
timed is what a program pays that calls the peer: strings in, a float32 array out.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from benchmarks.peers import ROSTER, FloatArray, Peer


def main(name: str) -> None:
    """Load the peer, say so, and answer orders until the pipe is closed."""
    # Libraries print: everything that is not an answer goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    peer = _load(name)
    answer: Mapping[str, Any] = {"versions": dict(peer.versions()), "batch_sizes": list(peer.batch_sizes)}
    print(json.dumps(answer), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_obey(peer, json.loads(line))), file=answers, flush=True)


def _load(name: str) -> Peer:
    listing = ROSTER[name]
    module = importlib.import_module(f"benchmarks.peers.{listing.module}")
    return cast("Peer", getattr(module, listing.factory)(listing.precision))


def _obey(peer: Peer, order: Mapping[str, Any]) -> Mapping[str, Any]:
    texts: list[str] = order["texts"]
    match order["op"]:
        case "embed":
            start = time.perf_counter()
            vectors = peer.embed(texts, order["batch_size"])
            seconds = time.perf_counter() - start
            return {"seconds": seconds, **(_encoded(vectors) if order["wants_vectors"] else {})}
        case "one":
            return {"seconds": [_timed(peer, text) for text in texts]}
        case unknown:
            raise ValueError(f"no such order: {unknown}")


def _timed(peer: Peer, text: str) -> float:
    start = time.perf_counter()
    peer.one(text)
    return time.perf_counter() - start


def _encoded(vectors: FloatArray) -> Mapping[str, Any]:
    plain = np.ascontiguousarray(vectors, dtype=np.float32)
    return {"shape": plain.shape, "vectors": base64.b64encode(plain.tobytes()).decode("ascii")}


if __name__ == "__main__":
    main(sys.argv[1])
