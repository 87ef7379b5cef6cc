"""A supervisor to be killed: ``doomed_supervisor.py SOCKET_FOLDER MODEL_FOLDER`` builds a whole tree of processes.

Prints the pids of the tree as JSON, after the worker was told ``hold gil 60`` and holds it, then waits for ever.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.processes import StandIn, embed
from tests.support.stub_engine import stub_card, stub_order
from tests.support.waiting import wait_until


def main(socket_folder: Path, model_folder: Path) -> None:
    stand_in = StandIn(socket_folder)
    tree = stand_in.whole_tree(stub_order(stub_card(model_folder)))
    idle = stand_in.fork_worker(tree.template, worker=2)
    spawned = stand_in.start_spawned_worker(stand_in.worker_command(worker=3, order=stub_order()))
    stand_in.receive_frames()
    stand_in.dispatch(embed(["hold gil 60"]))
    wait_until((model_folder / "stub_obeyed.txt").exists, 10)
    print(json.dumps([*tree.pids, idle.pid, spawned.pid]), flush=True)  # noqa: T201 - told to whoever will kill us
    signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
