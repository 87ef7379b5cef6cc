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

from embeddaemon.client._actions import Patience
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
    this user only, and ends when this process does, however that ends. Raises DaemonUnreachable, with the end of its
    log, when it does not start, and ConfigError for models that are none.
    """
    arguments = [part for model in _named(models) for part in ("--model", model)]
    if memory_budget is not None:
        arguments += ["--memory-budget", memory_budget]
    # Not under TMPDIR, which may be long: the path of a socket has 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="embeddaemon-", dir=_short_folder()))
    try:
        with _running(folder, arguments) as daemon:
            _wait_until_it_answers(daemon, folder, timeout)
            with Client(_endpoint(folder), timeout) as client:
                yield client
    finally:
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


def _short_folder() -> str | None:
    return "/tmp" if os.access("/tmp", os.W_OK) else None  # noqa: S108 - mkdtemp makes it 0700 and ours


def _endpoint(folder: Path) -> str:
    return f"ipc://{folder}/s"


@contextlib.contextmanager
def _running(folder: Path, arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    config, log = folder / "config.toml", folder / "log"
    config.touch()
    command = [sys.executable, "-m", "embeddaemon", "serve", "--config", str(config), "--endpoint", _endpoint(folder)]
    with log.open("wb") as stderr:
        daemon = subprocess.Popen(
            [*command, "--exit-with-parent", *arguments],
            stdin=subprocess.PIPE,  # its end-of-file tells the daemon that we are gone
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the application, which then stops us in order
        )
    try:
        yield daemon
    finally:
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


def _wait_until_it_answers(daemon: subprocess.Popen[bytes], folder: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    with Client(_endpoint(folder), patience=_ATTEMPT) as client:
        while True:
            try:
                client.hello(timeout=timeout)
            except DaemonUnreachable:
                if daemon.poll() is not None:
                    raise _not_started(f"ended with exit code {daemon.returncode}", folder) from None
                if time.monotonic() >= deadline:
                    raise _not_started(f"did not answer within {timeout:g} s", folder) from None
            else:
                return


def _not_started(what: str, folder: Path) -> DaemonUnreachable:
    log = (folder / "log").read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
    return DaemonUnreachable(f"the private daemon {what}; its log ends with:\n{log or '(nothing)'}")


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
