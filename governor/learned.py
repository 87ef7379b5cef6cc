"""What processes were measured to need, per weights, precision and way of computing: kept beyond our life, used next.

Says how measured numbers change a footprint, and when a declared one is off. Computing a footprint is in footprint.py,
the text that is kept in learned_json.py; reading and writing the file is the supervisor's (footprint_file.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace

from embeddaemon.governor.budget import MIB, format_bytes
from embeddaemon.governor.footprint import Footprint

# More than anybody serves from one machine, in a file of some 100 kB.
MAX_ENTRIES = 256

# Writing is for what makes a difference to a lease: measurements of the same load differ by 1 or 2 %.
WORTH_WRITING_PERCENT = 5
# A template does the same at every load; a worker's peak depends on what it was asked so far.
TEMPLATE_MARGIN_PERCENT = 5
WORKER_MARGIN_PERCENT = 10
# Micro-batches as large as allowed after which a worker has seen its worst: the kernels for all sizes of rows, and an
# allocator in as many pieces as it gets.
ENOUGH_BUDGETS = 100
# A worker at more than twice the computed bytes leaks: leasing it more would only let it leak further.
MOST_TIMES_COMPUTED = 2
# By so much may a declared number be off before its owner hears of it.
DEVIATION_PERCENT = 20

# No process of ours is smaller, no machine larger: what is outside was not measured but made up.
SMALLEST_BYTES = MIB
LARGEST_BYTES = 16 * 1024 * 1024 * MIB
MOST_TOKENS = 2**63


@dataclass(frozen=True, slots=True)
class Key:
    """What memory follows from. ``weights_digest`` is of tensors' names, dtypes and shapes (``ModelCard``)."""

    weights_digest: str
    precision: str
    device: str
    start_method: str
    threads: int
    token_budget: int
    stream_tokens: int
    """Most that one thread computes at once."""
    element_bytes: int
    """Of the weights, whatever precision "auto" was."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Private bytes of the processes of one key; 0 where nothing was measured (yet).

    The peaks include loading where the process loads; ``worker_bytes`` is what a worker holds between its work,
    ``tokens`` the most that one worker had computed when it was measured.
    """

    template_peak_bytes: int = 0
    template_bytes: int = 0
    worker_peak_bytes: int = 0
    worker_bytes: int = 0
    device_peak_bytes: int = 0
    tokens: int = 0

    def has_seen_enough(self, token_budget: int) -> bool:
        """Whether some worker has computed so much that its peak says what any will need."""
        return self.worker_peak_bytes > 0 and self.tokens >= ENOUGH_BUDGETS * token_budget


class Learned:
    """What was measured by ``Key``, of one ``program``: its version and whatever else memory depends on, as one text.

    Holds ``MAX_ENTRIES``; the one that was noted least recently goes for another.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self._measured: dict[Key, Measured] = {}
        self._told: dict[Key, Measured] = {}

    def __iter__(self) -> Iterator[Key]:
        """Keys, the one that was noted least recently first."""
        return iter(self._measured)

    def get(self, key: Key) -> Measured | None:
        """What was measured for a key, if anything was."""
        return self._measured.get(key)

    def note_template(self, key: Key, private_bytes: int, peak_bytes: int) -> bool:
        """Note a template that has just loaded; True when that is worth writing. Bytes that cannot be do not count."""
        old = self._measured.get(key, Measured())
        return self._note(
            key,
            replace(
                old,
                template_bytes=_followed(old.template_bytes, private_bytes),
                template_peak_bytes=_followed(old.template_peak_bytes, max(peak_bytes, private_bytes)),
            ),
        )

    def note_worker(self, key: Key, private_bytes: int, peak_bytes: int, device_bytes: int, tokens: int) -> bool:
        """Note a worker that has computed ``tokens`` in its life; True when that is worth writing.

        Keeps the most of each: a worker's peaks are rare, and what is noted between them says nothing.
        """
        old = self._measured.get(key, Measured())
        return self._note(
            key,
            replace(
                old,
                worker_bytes=max(old.worker_bytes, _plausible(private_bytes)),
                worker_peak_bytes=max(old.worker_peak_bytes, _plausible(max(peak_bytes, private_bytes))),
                device_peak_bytes=max(old.device_peak_bytes, _plausible(device_bytes)),
                tokens=max(old.tokens, min(tokens, MOST_TOKENS)),
            ),
        )

    def put(self, key: Key, measured: Measured) -> None:
        """Take over what was written before: nothing that must be written again."""
        self._told[key] = measured
        self._keep(key, measured)

    def _note(self, key: Key, measured: Measured) -> bool:
        if measured == Measured():
            return False
        self._keep(key, measured)
        if not _is_worth_writing(self._told.get(key, Measured()), measured):
            return False
        self._told[key] = measured
        return True

    def _keep(self, key: Key, measured: Measured) -> None:
        self._measured.pop(key, None)
        self._measured[key] = measured
        if len(self._measured) > MAX_ENTRIES:
            oldest = next(iter(self._measured))
            del self._measured[oldest]
            self._told.pop(oldest, None)


def footprint_with(
    footprint: Footprint, measured: Measured | None, *, is_declared: bool, computed: Footprint | None = None
) -> Footprint:
    """The footprint after what was measured; of a declared one nothing is lowered.

    A template does the same at every load, so its part follows what was measured. A worker's is only ever raised: what
    it was not asked for yet it may be asked for next, and its hard limit follows its lease. By how much is bounded:
    ``computed`` is what ``auto`` gives where the first one was declared (a number that is far too low would not say
    what a leak is).
    """
    if measured is None:
        return footprint
    known = computed or footprint
    rest, peak = _template_bytes(footprint, measured)
    worker_peak = _worker_bytes(footprint.worker_peak_bytes, known.worker_peak_bytes, measured.worker_peak_bytes)
    worker = worker_peak
    if footprint.worker_peak_bytes != footprint.worker_bytes:
        # It peaks while it loads, and what it will hold while it computes lies between its rest and that peak.
        worker = _worker_bytes(footprint.worker_bytes, known.worker_bytes, measured.worker_bytes)
    found = replace(
        footprint,
        template_peak_bytes=peak,
        template_bytes=rest,
        worker_peak_bytes=worker_peak,
        worker_bytes=min(worker, worker_peak),
        device_bytes=_worker_bytes(footprint.device_bytes, known.device_bytes, measured.device_peak_bytes),
    )
    return _largest(footprint, found) if is_declared else found


def deviation(declared_bytes: int, measured: Measured, *, token_budget: int) -> str | None:
    """What to tell the owner of an estimate that is off by more than a fifth, with a better one; None if it is not.

    That it is too low, any measurement can show; that it is too high, only a worker that has computed enough.
    """
    # A worker that loads for itself peaks at that, which an estimate does not stand for: then its rest is the least.
    most = measured.template_bytes + measured.worker_peak_bytes
    least = most if measured.template_bytes else measured.worker_bytes
    if least * (100 - DEVIATION_PERCENT) > declared_bytes * 100:
        return _deviation_text("too low", declared_bytes, most)
    is_known = measured.has_seen_enough(token_budget)
    if is_known and declared_bytes * 100 > most * (100 + DEVIATION_PERCENT):
        return _deviation_text("too high", declared_bytes, most)
    return None


def _plausible(count: int) -> int:
    return count if SMALLEST_BYTES <= count <= LARGEST_BYTES else 0


def _followed(old: int, new_bytes: int) -> int:
    """Up at once, down by a quarter of the way: one load that took more than the others is forgotten in time."""
    new = _plausible(new_bytes)
    if new == 0:
        return old
    return new if new >= old else old - (old - new + 3) // 4


def _is_worth_writing(told: Measured, measured: Measured) -> bool:
    """Whether some bytes differ by more than a few percent, or twice the tokens stand behind them."""
    if measured.tokens > 2 * told.tokens:
        return True
    pairs = zip(astuple(replace(told, tokens=0)), astuple(replace(measured, tokens=0)), strict=True)
    return any(abs(new - old) * 100 > old * WORTH_WRITING_PERCENT for old, new in pairs)


def _template_bytes(footprint: Footprint, measured: Measured) -> tuple[int, int]:
    """At rest and at the peak of loading; as computed where there is no template or it was not measured."""
    if not footprint.template_bytes or not measured.template_bytes:
        return footprint.template_bytes, footprint.template_peak_bytes
    rest = _with_margin(measured.template_bytes, TEMPLATE_MARGIN_PERCENT)
    return rest, max(rest, _with_margin(measured.template_peak_bytes, TEMPLATE_MARGIN_PERCENT))


def _worker_bytes(lease_bytes: int, computed_bytes: int, measured_bytes: int) -> int:
    """What to lease a worker instead of ``lease_bytes``; the same where nothing was measured or nothing is held."""
    if not measured_bytes or not lease_bytes:
        return lease_bytes
    found = _with_margin(measured_bytes, WORKER_MARGIN_PERCENT)
    return max(lease_bytes, min(found, MOST_TIMES_COMPUTED * computed_bytes))


def _with_margin(count: int, percent: int) -> int:
    return count * (100 + percent) // 100


def _largest(declared: Footprint, found: Footprint) -> Footprint:
    pairs = zip(astuple(declared), astuple(found), strict=True)
    return Footprint(*(max(pair) for pair in pairs))


def _deviation_text(direction: str, declared_bytes: int, measured_bytes: int) -> str:
    better = -(-_with_margin(measured_bytes, WORKER_MARGIN_PERCENT) // MIB)
    return (
        f"the estimate of {format_bytes(declared_bytes)} is {direction}: measured were {format_bytes(measured_bytes)}; "
        f'better is "{better}MiB"'
    )
