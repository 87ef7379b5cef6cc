"""A program: a worker's compute threads around a device that fails for good. Prints whatever is answered."""

from __future__ import annotations

import sys
from math import inf

import numpy as np
import zmq

from embeddaemon.protocol import control, link
from embeddaemon.protocol.messages import Embed
from embeddaemon.workers.compute import Compute
from embeddaemon.workers.engines import DeviceLost, Ids, Rows
from embeddaemon.workers.loading import Loaded
from embeddaemon.workers.requests import Tokenized
from embeddaemon.workers.waiting import Work
from tests.support.stub_engine import StubModel, stub_order


class LostDevice(StubModel):
    """Fails as torch does after an illegal access."""

    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        raise DeviceLost("cuda:0 failed: an illegal memory access was encountered")


def main() -> None:
    """Submit one request and show what comes of it."""
    context = zmq.Context[zmq.Socket[bytes]]()
    ours, theirs = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    theirs.bind("inproc://link")
    ours.connect("inproc://link")
    order = stub_order()
    command = control.ForkWorker(child=1, worker=1, incarnation=1, endpoint="", threads=1, heartbeat_seconds=1.0)
    compute = Compute(command, Loaded(LostDevice(order), order, {}, seconds=0.0, peak_bytes=0), ours)
    tokenized = Tokenized([np.array([0, 2, 1], dtype=np.int32)], [0], None, (), 1, 3)
    item = link.Item(serial=1, model="m", expires_in_ms=10_000, queue_us=0)
    compute.submit([Work(item, Embed(id=1), tokenized, deadline=inf, tokenize_us=0)])
    compute.start()
    sys.stdout.write(repr(theirs.recv_multipart()))


if __name__ == "__main__":
    main()
