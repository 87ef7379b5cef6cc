"""An answer with bad numbers: the worker is replaced and the request computed once more by another. Pure.

The workers check what they compute (workers/output.py). Two of them that agree are believed: then it is the texts, or
the model, the client gets ``bad_output``, and for a while no worker is replaced for it.
"""

from __future__ import annotations

from embeddaemon.errors import BadOutput
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.departures import drain
from embeddaemon.supervisor.processes.lifecycle import Worker
from embeddaemon.supervisor.requests.dispatch import OpenRequest
from embeddaemon.supervisor.sickness import canary
from embeddaemon.supervisor.state import State

BELIEVED_SECONDS = 60.0
"""After two workers agreed: a client that asks the same again and again must not cost a worker each time."""


def is_asked_again(
    state: State, model: ModelState, worker: Worker, entry: OpenRequest, now: float, *, code: str
) -> bool:
    """Whether this answer is not passed on: another worker is asked, and this one goes when it has nothing left."""
    if code != BadOutput.code:
        return False
    if entry.bad_outputs:
        model.bad_output_believed_until = now + BELIEVED_SECONDS
    if now < model.bad_output_believed_until:
        canary.ask(state, worker, now)  # whose numbers are bad whatever it is asked goes all the same
        return False
    entry.bad_outputs += 1
    entry.worker = None
    model.queue.put_back(entry)
    model.deaths["bad_output"] += 1
    state.counts["recycled"] += 1
    state.log("warning", "recycling", worker=worker.label, why="bad_output", held=worker.in_flight)
    drain(state, worker, now)
    return True
