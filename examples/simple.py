"""Two lines in an application. Needs a running daemon: `embeddaemon serve`."""

from __future__ import annotations

from embeddaemon import Client

with Client() as client:
    vectors = client.embed(["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The invoice is overdue."])

print(f"{vectors.shape[0]} vectors of {vectors.shape[1]} numbers, {vectors.dtype}")
print(f"cat and kitten:  {vectors[0] @ vectors[1]:.2f}")
print(f"cat and invoice: {vectors[0] @ vectors[2]:.2f}")
