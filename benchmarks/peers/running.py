"""The benchmarks' end of the pipe to a peer: started, asked, and stopped dead while it is somebody else's turn."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.peers import ENVIRONMENTS, ROSTER, FloatArray
from benchmarks.peers._leash import end_with_parent

_ROOT = Path(__file__).parents[2]


class Running:
    """One peer in its process group. `wake` before asking, `rest` afterwards: a stopped process cannot spin."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.listing = ROSTER[name]
        environment = self.listing.environment
        python = sys.executable if environment is None else str(ENVIRONMENTS / environment / "bin" / "python")
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.peers.host", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=_ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OPENVINO_TELEMETRY_DISABLE": "1"},
            text=True,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - nothing here has threads when peers are started
        )
        self.batch_size = 0
        self.versions: Mapping[str, str] = {}
        self.batch_sizes: Sequence[int] = ()

    def wait_until_ready(self) -> None:
        """Until the model is loaded; then it rests. Raises RuntimeError if it cannot be."""
        ready = self._answer()
        self.versions, self.batch_sizes = ready["versions"], ready["batch_sizes"]
        self.batch_size = self.batch_sizes[0]
        self.rest()

    def embed_seconds(self, texts: Sequence[str]) -> float:
        """How long many texts took, with the batch size that it has now."""
        return float(self._ask("embed", texts, wants_vectors=False)["seconds"])

    def vectors(self, texts: Sequence[str]) -> FloatArray:
        """(texts, dim)."""
        answer = self._ask("embed", texts, wants_vectors=True)
        return np.frombuffer(base64.b64decode(answer["vectors"]), dtype=np.float32).reshape(answer["shape"])

    def one_seconds(self, texts: Sequence[str]) -> list[float]:
        """How long each text took by itself, one after the other."""
        return [float(seconds) for seconds in self._ask("one", texts)["seconds"]]

    def tune(self, texts: Sequence[str]) -> str:
        """Try every batch size, each warmed up with a few of the texts, and keep the fastest."""
        times = {}
        for batch_size in self.batch_sizes:
            self.batch_size = batch_size
            self.embed_seconds(texts[:8])
            times[batch_size] = self.embed_seconds(texts)
        self.batch_size = min(times, key=times.__getitem__)
        return f"batches of {self.batch_size}"

    def wake(self) -> None:
        """It may compute from here on."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def rest(self) -> None:
        """It takes no processor time from here on."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def stop(self) -> None:
        """End it and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            self.wake()
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._errors.close()

    def _ask(self, op: str, texts: Sequence[str], **more: object) -> Mapping[str, Any]:
        assert self._process.stdin is not None
        order = {"op": op, "texts": list(texts), "batch_size": self.batch_size, **more}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            story = self._errors.read().decode(errors="replace")
            raise RuntimeError(f"{self.name} has ended; `make peers` installs it. Its last words:\n{story[-3000:]}")
        answer: Mapping[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def started(names: Iterable[str]) -> Iterator[dict[str, Running]]:
    """These peers, loaded together and then at rest; ended at the end."""
    peers: dict[str, Running] = {}
    try:
        for name in names:
            peers[name] = Running(name)
        for peer in peers.values():
            peer.wait_until_ready()
        yield peers
    finally:
        for peer in peers.values():
            peer.stop()
