"""A peer that speaks ZMTP byte by byte, well or badly: for what no ZeroMQ library would send."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from embeddaemon.supervisor.connections import zmtp
from tests.support.waiting import seconds

READY = zmtp.command(b"READY", b"\x0bSocket-Type\0\0\0\x06DEALER")


def frame(content: bytes, *, more: bool = False) -> bytes:
    """One frame as it is on the wire."""
    if len(content) < 256:
        return bytes((int(more), len(content))) + content
    return bytes((int(more) | 2,)) + len(content).to_bytes(8, "big") + content


class RawPeer:
    """One connection to a daemon's Unix socket."""

    def __init__(self, path: Path, *, greets: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(seconds(5))
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        if greets:
            with contextlib.suppress(BrokenPipeError):  # refused already: what it was told can still be read
                self.socket.sendall(zmtp.GREETING + READY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def read_until_closed(self) -> bytes:
        """Everything the daemon sends until it closes; fails when it does not."""
        received = b""
        with contextlib.suppress(ConnectionError):
            while chunk := self.socket.recv(65_536):
                received += chunk
        return received


@contextlib.contextmanager
def as_user(uid: int, groups: tuple[int, ...], do: Callable[[], bytes]) -> Iterator[bytes]:
    """What ``do`` gives in a child process with another uid, whose only groups are these; its traceback on failure."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        outcome = b"failed"
        try:
            os.close(reader)
            os.setgroups(groups[1:])
            os.setgid(groups[0])
            os.setuid(uid)
            outcome = do()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test shows it
            outcome = f"{type(error).__name__}: {error}".encode()
        finally:
            os.write(writer, outcome)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        outcome = pipe.read()
    os.waitpid(pid, 0)
    yield outcome
