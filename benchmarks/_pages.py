"""What processes have in memory, as Linux counts it: their fair share (PSS), their own (USS), and what was copied.

A process that is forked shares every page with its parent until one of the two writes to it. `inherited` finds those
pages again, one by one, in /proc/PID/pagemap: present in the parent, and in the child anonymous memory that nobody else
maps. Reading takes milliseconds and disturbs neither. Only for processes of one's own user, or as root.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MIB = 2**20
_PAGE = 4096
_PRESENT, _OF_FILE, _EXCLUSIVE = (np.uint64(1 << bit) for bit in (63, 61, 56))
"""Bits of an entry of pagemap, as the kernel's documentation numbers them."""

_Numbers = NDArray[np.int64]
_Entries = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in bytes."""

    resident: int
    """With everything shared counted in full: several of these must not be added up."""
    share: int
    """Proportional set size: a page that n processes map counts 1/n in each. These add up to what is really used."""
    own: int
    """Unique set size: what would come back if the process ended."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a forked process has for itself, by kind of mapping; in bytes."""

    copied: Mapping[str, int]
    """Its parent has the page too: shared after the fork, copied when one of the two wrote to it."""
    added: Mapping[str, int]
    """Its parent has no page there: allocated after the fork."""


@dataclass(frozen=True, slots=True)
class _Mapping:
    start: int
    end: int
    kind: str
    """``[heap]``, ``anonymous``, or the name of the file."""


def memory_of(pid: int) -> Memory:
    """Now. Raises OSError for a process that is gone."""
    counts: Counter[str] = Counter()
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]:
        key, kilobytes = line.split()[:2]
        counts[key] += int(kilobytes) * 1024
    return Memory(counts["Rss:"], counts["Pss:"], counts["Private_Clean:"] + counts["Private_Dirty:"])


def tree_of(pid: int) -> list[int]:
    """The process and everything below it."""
    below = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for file in below for child in file.read_text(encoding="utf-8").split()]
    return [pid, *(one for child in children for one in tree_of(child))]


def share_of_tree(pid: int) -> int:
    """Bytes that a process and everything below it really use."""
    return sum(memory_of(one).share for one in tree_of(pid))


def inherited(child: int, parent: int) -> Inherited:
    """What a forked process has for itself, apart into copies of its parent's pages and pages that are new."""
    of_parent = np.concatenate([_numbers(parent, one, _PRESENT) for one in _mappings(parent)])
    copied: Counter[str] = Counter()
    added: Counter[str] = Counter()
    for mapping in _mappings(child):
        own = _numbers(child, mapping, _PRESENT | _EXCLUSIVE)
        both = int(np.isin(own, of_parent, assume_unique=True).sum())
        copied[mapping.kind] += both * _PAGE
        added[mapping.kind] += (len(own) - both) * _PAGE
    return Inherited(+copied, +added)


def _numbers(pid: int, mapping: _Mapping, wanted: np.uint64) -> _Numbers:
    """Of the anonymous pages of a mapping that have all the wanted bits; a file's own pages are never copies."""
    entries = _entries(pid, mapping)
    return np.flatnonzero((entries & (wanted | _OF_FILE)) == wanted) + mapping.start // _PAGE


def _entries(pid: int, mapping: _Mapping) -> _Entries:
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as file:
        file.seek(mapping.start // _PAGE * 8)
        return np.frombuffer(file.read((mapping.end - mapping.start) // _PAGE * 8), dtype=np.uint64)


def _mappings(pid: int) -> Iterator[_Mapping]:
    """Those that may be written to; of the others there is nothing to copy."""
    for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
        span, permissions, _, _, _, *name = line.split(maxsplit=5)
        if "w" in permissions:
            start, _, end = span.partition("-")
            kind = Path(name[0]).name if name else "anonymous"
            yield _Mapping(int(start, 16), int(end, 16), kind)
