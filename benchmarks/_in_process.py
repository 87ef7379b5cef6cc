"""What people write who have no daemon: a program that imports sentence-transformers, loads the model, and encodes.

``python -m benchmarks._in_process``: says ``ready`` after its first vector; for every line on standard input it encodes
that many texts of the corpus and as many queries one by one, and says ``done``.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

from benchmarks._harness import ROOT, TEXT


class Program:
    """One such program, from the start of its process."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks._in_process"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True
        )
        self.pid = self._process.pid

    def wait_until_ready(self) -> None:
        """Until its first vector is there."""
        self._hear("ready")

    def encode(self, texts: int) -> None:
        """So many, in batches as they are without being asked, and so many short ones one by one."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(f"{texts}\n")
        stdin.flush()
        self._hear("done")

    def stop(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()

    def _hear(self, word: str) -> None:
        stdout: IO[str] | None = self._process.stdout
        assert stdout is not None
        heard = stdout.readline().strip()
        if heard != word:
            raise RuntimeError(f"the program with sentence-transformers said {heard!r} instead of {word!r}")


@contextlib.contextmanager
def programs(count: int) -> Iterator[list[Program]]:
    """Started one after the other, so that none waits for the others' imports; ended at the end."""
    running: list[Program] = []
    try:
        for _ in range(count):
            running.append(Program())
            running[-1].wait_until_ready()
        yield running
    finally:
        for one in running:
            one.stop()


def _live() -> None:
    # Here, so that the side that starts programs pays nothing for it, and the program all.
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415

    from benchmarks.peers import model_folder  # noqa: PLC0415

    model = SentenceTransformer(str(model_folder()), device="cpu")
    model.encode(TEXT)
    print("ready", flush=True)
    for line in sys.stdin:
        from benchmarks.corpus import prose, queries  # noqa: PLC0415

        model.encode(list(prose()[: int(line)]), show_progress_bar=False)
        for text in queries()[: int(line)]:
            model.encode(text, show_progress_bar=False)
        print("done", flush=True)


if __name__ == "__main__":
    _live()
