"""How root writes into the folders of another user: as that user. So what root makes there is the other's to read.

Nothing is handed over afterwards, and a link that the other user laid there leads root nowhere: each step is one that
the other could have taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embeddaemon.errors import ConfigError


@contextmanager
def acting_as_owner_of(path: Path) -> Iterator[None]:
    """Run as root, the block acts as the owner of ``path``, or of the nearest folder above it; else as before.

    The process has the effective ids of that owner meanwhile, all of its threads. Raises ConfigError where root may
    not do that.
    """
    owner = _nearest(path.absolute())
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    try:
        _become(owner.st_uid, owner.st_gid, [])
        yield
    finally:
        os.seteuid(0)
        _become(0, gid, groups)


def _become(uid: int, gid: int, groups: list[int]) -> None:
    try:
        os.setgroups(groups)
        os.setegid(gid)
        os.seteuid(uid)
    except OSError as error:
        raise ConfigError(f"root may not act as user {uid} here ({error.strerror}): run this as that user") from error


def _nearest(path: Path) -> os.stat_result:
    for each in (path, *path.parents):
        try:
            return each.stat()
        except OSError:
            continue
    raise AssertionError("there is no root folder")
