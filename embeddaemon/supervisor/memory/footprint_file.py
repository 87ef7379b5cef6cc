"""The file that keeps what was learned about footprints from one life of the daemon to the next. I/O.

What is in it is governor/learned_json.py's. Whatever is wrong with it makes it as good as absent: models are leased
what is computed, and measured anew.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from embeddaemon.governor.learned import Learned
from embeddaemon.governor.learned_json import from_text
from embeddaemon.supervisor.surroundings.machine import daemon_version
from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)

NAME = "footprints.json"

MAX_BYTES = 1024 * 1024
"""Ten times what the most entries take."""


def program() -> str:
    """What measured memory depends on beside the model: our version and torch's, which is not imported for it."""
    try:
        return f"embeddaemon {daemon_version()} with torch {version('torch')}"
    except PackageNotFoundError:
        return f"embeddaemon {daemon_version()}"


def read(folder: Path | None) -> tuple[Learned, str | None]:
    """What was learned before, and None; or nothing, and why the file cannot be used. No file is no reason."""
    if folder is None:
        return Learned(program()), None
    try:
        text = _read_safely(folder / NAME)
    except FileNotFoundError:
        return Learned(program()), None
    except OSError as error:
        return Learned(program()), error.strerror or str(error)[:200]
    except (UnicodeDecodeError, _Wrong) as error:
        return Learned(program()), str(error)[:200]
    return from_text(text, program())


def write(folder: Path | None, document: str) -> None:
    """Keep the whole file or none; when that fails, one line in the log says why.

    Not forced onto the disk: that can take seconds, in which nobody is served, and a torn file is as good as none.
    """
    if folder is None:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(folder / NAME, document)
    except OSError as error:
        log.warning(fields("footprints_not_kept", path=folder / NAME, why=str(error)[:200]))


def _replace(path: Path, document: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{NAME}.")
    part = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(document)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class _Wrong(Exception):
    """Why a file cannot be used."""


def _read_safely(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Wrong("it is no plain file")
        if status.st_uid not in (os.geteuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _Wrong("others could have written it")
        if status.st_size > MAX_BYTES:
            raise _Wrong(f"it is larger than {MAX_BYTES} bytes")
        return file.read(MAX_BYTES).decode()
