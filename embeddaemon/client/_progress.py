"""Progress of a long call: a bar on stderr, the caller's own function, or nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sized

from embeddaemon.client._operations import Report, unreported
from embeddaemon.client._window import PIECE_TEXTS

Progress = bool | Callable[[int, int], None] | None
"""True: a bar. False: none. None: a bar if stderr is a terminal and the call is long. Or a function (done, total)."""

_LONG_CALL_TEXTS = 8 * PIECE_TEXTS
_SHOWN_AFTER_SECONDS = 1.0


@contextlib.contextmanager
def reporting(progress: Progress, texts: object) -> Iterator[Report]:
    """Whom to tell after every piece."""
    if callable(progress):
        yield progress
    elif progress or (progress is None and _is_long(texts) and _is_terminal()):
        with _bar(0.0 if progress else _SHOWN_AFTER_SECONDS) as report:
            yield report
    else:
        yield unreported


def _is_long(texts: object) -> bool:
    return isinstance(texts, Sized) and not isinstance(texts, str) and len(texts) > _LONG_CALL_TEXTS


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def _bar(delay_seconds: float) -> Iterator[Report]:
    from tqdm import tqdm  # noqa: PLC0415 - 30 ms that most calls need not pay

    with tqdm(unit="text", unit_scale=True, delay=delay_seconds, file=sys.stderr, dynamic_ncols=True) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report
