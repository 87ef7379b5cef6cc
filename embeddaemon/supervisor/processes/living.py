"""One process below us: what can be done to it, whoever started it; and what those that we start are given. I/O.

Which processes there are, and what is heard from them, is in process.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36

_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # numpy's import starts no threads: they would not survive a fork
    "TOKENIZERS_PARALLELISM": "false",  # nor would the tokenizers' pool
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking if there is a GPU makes no CUDA context
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # cuda:0 is the card that NVML, and so the governor, calls the first
}
_NOT_THEIRS = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID")
"""systemd's, meant for the supervisor alone."""


@dataclass(slots=True)
class Living:
    """A process from its start until it is reaped. ``popen`` is set for those that we started ourselves."""

    pid: int
    popen: subprocess.Popen[bytes] | None = None
    is_going: bool = False
    """It was seen to end by itself, or by somebody else's hand."""
    was_told_to_die: bool = False
    """By us, before it was going."""
    _pidfd: int | None = field(init=False, default=None)
    _was_gone: bool = field(init=False, default=False)
    """Reaped by whoever forked it before we heard of it: its number may be another's by now."""

    def __post_init__(self) -> None:
        try:
            self._pidfd = _open_pidfd(self.pid)
        except ProcessLookupError:
            self._was_gone = True

    @property
    def is_ours(self) -> bool:
        """Started by us and not forked by one of those that fork."""
        return self.popen is not None

    def is_there(self) -> bool:
        """Whether its number is still its own: it runs, or nobody has reaped it. Without pidfds: if anybody has it."""
        try:
            self._signal(0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def kill(self) -> None:
        """SIGKILL by a descriptor of the process itself, which no other process can ever be behind."""
        if not self.is_going:
            self.was_told_to_die = True
        with contextlib.suppress(ProcessLookupError, PermissionError):  # another user has its number now
            self._signal(signal.SIGKILL)

    def dump_stacks(self) -> None:
        """SIGUSR1, to which every process of ours answers with its threads' stacks (workers/guard.py)."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self._signal(signal.SIGUSR1)

    def _signal(self, number: int) -> None:
        """Raises ProcessLookupError when it was reaped."""
        if self._was_gone:
            raise ProcessLookupError(self.pid)
        if self._pidfd is not None:
            signal.pidfd_send_signal(self._pidfd, number)
        else:
            os.kill(self.pid, number)

    def reaped(self, exit_code: int) -> None:
        """We collected it: nobody may wait for that number again."""
        if self.popen is not None:
            self.popen.returncode = exit_code

    def let_go(self) -> None:
        """Close what we hold of it: a lifeline's end is at end-of-file then."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self.popen is not None and self.popen.stdin is not None:
            with contextlib.suppress(OSError):
                self.popen.stdin.close()


def environment(folder: Path) -> dict[str, str]:
    """For those that we start: what their C libraries read before main().

    ``folder`` is one that is ours. torch's import makes a folder for compiled code unless told one that exists: it
    would be left in /tmp by every daemon, and where /tmp cannot be written to the import would fail. It puts nothing
    there.
    """
    theirs = {key: value for key, value in os.environ.items() if key not in _NOT_THEIRS}
    return {"TORCHINDUCTOR_CACHE_DIR": str(folder)} | theirs | _ENVIRONMENT


def become_subreaper() -> None:
    """From now on processes whose parents died are ours to collect."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _open_pidfd(pid: int) -> int | None:
    """None where the system has none, or none left: then it is known by its number, better than not at all.

    Raises ProcessLookupError when there is no such process.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None
