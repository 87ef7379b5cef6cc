"""``local``: a daemon for this process alone, started, watched and stopped by a ``with`` statement."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from embeddaemon.client._actions import Patience
from embeddaemon.client._requests import wait_seconds
from embeddaemon.client.sync import Client
from embeddaemon.errors import ConfigError, DaemonUnreachable

STOP_SECONDS = 15.0
"""From SIGTERM to SIGKILL: the daemon finishes what it holds."""

_TAIL_BYTES = 4096
_ATTEMPT = Patience(connect=0.1, hello=2.0)

Models = str | Sequence[str] | Mapping[str, str] | None
"""Sources (``path:DIR``, ``package:NAME``, ``hub:ORG/NAME``), each alone or as ``NAME=SOURCE``; or names to sources."""


@contextlib.contextmanager
def local(models: Models = None, *, memory_budget: str | None = None, timeout: float = 60.0) -> Iterator[Client]:
    """Run a private daemon for the length of a ``with`` statement, and yield a client for it.

        with embeddaemon.local("path:./my-model") as client:
            vectors = client.embed(["first text", "second"])

    Without ``models`` it serves the bundled one; the first is the default. ``memory_budget`` is "80%" or "8GiB".
    ``timeout``, in seconds, bounds its start, and is the client's. It reads no configuration file, is reachable for
    this user only, and ends when this process does, however that ends; processes that are forked meanwhile may use a
    client of their own for it (``Client(client.endpoint)``), and do not end it. Raises DaemonUnreachable, with the end
    of its log, when it does not start, and ConfigError for models that are none or where no folder can be made.
    """
    timeout = wait_seconds(timeout)
    arguments = [part for model in _named(models) for part in ("--model", model)]
    if memory_budget is not None:
        arguments += ["--memory-budget", memory_budget]
    owner, folder = os.getpid(), _make_folder()
    try:
        with _log(folder) as log, _running(owner, folder, arguments, log) as daemon:
            _wait_until_it_answers(daemon, folder, timeout, log)
            with Client(_endpoint(folder), timeout) as client:
                yield client
    finally:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)


def _named(models: Models) -> list[str]:
    if models is None:
        return []
    if isinstance(models, str):
        return [_with_name(models)]
    if isinstance(models, Mapping):
        return [f"{name}={source}" for name, source in models.items()]
    return [_with_name(model) for model in models]


def _with_name(model: str) -> str:
    """A source without a name gets that of its last part: hub:ORG/all-MiniLM-L6-v2@main is all-MiniLM-L6-v2."""
    if re.match(r"[^:/]+=", model):
        return model
    last = model.rstrip("/").rpartition("/")[2].rpartition(":")[2].partition("@")[0]
    if not last or last in {".", ".."}:
        raise ConfigError(f"model {model!r}: give it a name, as in NAME={model}")
    return f"{last}={model}"


def _make_folder() -> Path:
    """For the socket, 0700 and ours. First where paths are short, since that of a socket has 107 bytes."""
    places = ["/tmp", os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm", None]  # noqa: S108 - mkdtemp makes it 0700
    for place in places:
        if place is None or os.access(place, os.W_OK | os.X_OK):
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="embeddaemon-", dir=place))
    raise ConfigError(
        "there is no folder for the private daemon's socket: neither /tmp nor /dev/shm can be written to; "
        "set XDG_RUNTIME_DIR or TMPDIR to one that can"
    )


def _log(folder: Path) -> IO[bytes]:
    """Without a name: nothing of it is left when this process is killed."""
    return tempfile.TemporaryFile(dir=folder)


def _endpoint(folder: Path) -> str:
    return f"ipc://{folder}/s"


@contextlib.contextmanager
def _running(owner: int, folder: Path, arguments: Sequence[str], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "embeddaemon", "serve", "--config", os.devnull, "--endpoint", _endpoint(folder)]
    # By pid too: we may be gone before the daemon can look who started it, and another process may hold its stdin open.
    ends = ["--exit-with-parent", "--parent-pid", str(owner)]
    daemon = subprocess.Popen(
        [*command, *ends, *arguments],
        stdin=subprocess.PIPE,  # its end-of-file tells the daemon that we are gone
        stdout=subprocess.DEVNULL,
        stderr=log,
        env=_environment(),
        start_new_session=True,  # Ctrl-C is for the application, which then stops us in order
    )
    try:
        yield daemon
    finally:
        if os.getpid() == owner:  # a process that was forked in the body leaves it too
            _stop(daemon)


def _environment() -> dict[str, str]:
    """Ours; where this package runs from a checkout, the daemon's interpreter must find it there too."""
    environment = dict(os.environ)
    environment.pop("NOTIFY_SOCKET", None)  # there the application reports to its own service manager
    root = Path(__file__).resolve().parents[2]
    if root.name not in {"site-packages", "dist-packages"}:
        paths = [str(root), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def _wait_until_it_answers(daemon: subprocess.Popen[bytes], folder: Path, timeout: float, log: IO[bytes]) -> None:
    deadline = time.monotonic() + timeout
    with Client(_endpoint(folder), patience=_ATTEMPT) as client:
        while True:
            try:
                client.hello(timeout=timeout)
            except DaemonUnreachable:
                if daemon.poll() is not None:
                    raise _not_started(f"ended with exit code {daemon.returncode}", log) from None
                if time.monotonic() >= deadline:
                    raise _not_started(f"did not answer within {timeout:g} s", log) from None
            else:
                return


def _not_started(what: str, log: IO[bytes]) -> DaemonUnreachable:
    # By position: the daemon writes through the same open file, whose end is where it writes next.
    written = os.fstat(log.fileno()).st_size
    tail = os.pread(log.fileno(), _TAIL_BYTES, max(0, written - _TAIL_BYTES)).decode(errors="replace").strip()
    return DaemonUnreachable(f"the private daemon {what}; its log ends with:\n{tail or '(nothing)'}")


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    """Drain, then kill. Whatever happens, it is reaped."""
    daemon.terminate()
    try:
        daemon.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
    finally:
        if daemon.poll() is None:  # Ctrl-C while it drained
            daemon.kill()
            daemon.wait()
        if daemon.stdin is not None:
            daemon.stdin.close()
