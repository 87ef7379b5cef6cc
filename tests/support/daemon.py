"""Starts real daemons for tests, in their own processes, and looks after them: readiness, output, processes."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.raw_client import RawClient
from tests.support.waiting import seconds, wait_until

_PROGRAM = Path(__file__).with_name("stub_daemon.py")

LOOKS_OFTEN = {"supervisor.loop.LOOK_AT_FILES_SECONDS": 0.2}
"""For ``shorter``: a daemon that notices soon when one of its socket files is gone."""


class RunningDaemon:
    """One daemon. ``output()`` is everything that it and the processes below it wrote."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], launcher: Sequence[str] = ()) -> None:
        self.folder = folder
        self.endpoint = f"ipc://{folder}/s"
        self.log_file = folder / "log"
        arguments = json.dumps({"endpoint": self.endpoint, **settings})
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*launcher, sys.executable, str(_PROGRAM), arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_until_listening(self) -> None:
        wait_until(lambda: (self.folder / "s").exists() or self.process.poll() is not None, 10, describe=self.output)
        assert self.process.poll() is None, self.output()

    def client(self, *, timeout_seconds: float = 10.0) -> RawClient:
        return RawClient(self.endpoint, timeout_seconds=timeout_seconds)

    def output(self) -> str:
        return self.log_file.read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        with self.client() as client:
            return client.status()

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def named(self, name: str) -> list[psutil.Process]:
        """The processes below that call themselves ``name``: ed-fork-server, ed-template, ed-worker."""
        found = []
        for process in self.descendants():
            try:
                if process.name() == name:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def kill_supervisor(self) -> None:
        """SIGKILL. What it leaves of its sockets is removed: it cannot do that any more."""
        self.process.kill()
        self.process.wait(seconds(5))
        for left in ("s", "s.w"):
            (self.folder / left).unlink(missing_ok=True)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds(15))


@contextmanager
def running_daemon(folder: Path, *, launcher: Sequence[str] = (), **settings: Any) -> Iterator[RunningDaemon]:
    """A daemon that listens; it is stopped at the end, and nothing of it may be left.

    ``launcher`` is put before its command.
    """
    daemon = RunningDaemon(folder, settings, launcher)
    try:
        daemon.wait_until_listening()
        below = daemon.descendants
        yield daemon
        if daemon.process.poll() is None:
            left = below()
            assert daemon.stop() == 0, daemon.output()
            gone, alive = psutil.wait_procs(left, timeout=seconds(2))
            assert not alive, f"left behind: {alive} (gone: {gone})"
    finally:
        if daemon.process.poll() is None:
            daemon.kill_supervisor()


def is_gone(process: psutil.Process) -> bool:
    """Ended: collected, or only waiting to be."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def stub_folder(
    folder: Path, *, load: str = "ok", dim: int = 8, vocabulary: int = 30_000, weights_bytes: int = 0
) -> Path:
    """A model folder that the supervisor understands and the stub engine loads: published layout, one tiny tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_size": dim,
        "intermediate_size": 4 * dim,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": vocabulary,
        "max_position_embeddings": 64,
    }
    (folder / "config.json").write_text(json.dumps(config))
    modules = [
        ("0", "", "models.Transformer"),
        ("1", "1_Pooling", "models.Pooling"),
        ("2", "2_Normalize", "models.Normalize"),
    ]
    (folder / "modules.json").write_text(
        json.dumps([{"idx": int(idx), "name": idx, "path": path, "type": kind} for idx, path, kind in modules])
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "find this: ", "document": ""}})
    )
    (folder / "tokenizer.json").write_text("{}")
    (folder / "stub.json").write_text(json.dumps({"load": load}))
    size = max(4 * dim, weights_bytes - weights_bytes % 4)
    tensor = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = json.dumps({"encoder.layer.0.output.dense.weight": tensor}).encode()
    header += b" " * (-len(header) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    return folder


def stub_loads(folder: Path) -> list[int]:
    """Pids of the processes that loaded the model of this folder."""
    path = folder / "stub_loads.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def kill(pid: int) -> None:
    """SIGKILL to a process below a daemon of ours."""
    os.kill(pid, signal.SIGKILL)


def end(daemon: subprocess.Popen[bytes]) -> None:
    """As an operator does; fails when it has not ended by then, and leaves nothing behind all the same."""
    daemon.terminate()
    try:
        daemon.wait(seconds(15))
    finally:
        daemon.kill()
        daemon.wait()
