"""Who may write a model's files: what everybody may change is not loaded. Reads modes and owners, never a file.

A path is walked from the root as the kernel walks it, links included: whoever may replace one of its folders, links or
files chooses the model. Refused is

- a file or a folder that everybody may write, unless it lies on a file system that is mounted read-only here. A folder
  with the sticky bit (``/tmp``) may be written by everybody, since nobody can replace what another made there;
- what lies directly in such a sticky folder and belongs neither to root nor to us: anybody may have made it.

Not refused is what a group may write, which is how teams share models, nor, elsewhere, another owner. A store of models
that the daemon's user cannot write is the better arrangement, so its files are usually another's; images of containers
have files of whatever uid built them, and in a user namespace unmapped owners are all ``nobody``. Access lists are seen
only as far as the group's bits show them.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from embeddaemon.errors import UnsafeModel

MOST_LINKS = 40
"""On the way to one file; as many as Linux follows."""


class Ways:
    """The ways to a model's files, each of their parts looked at once: one ``lstat`` for each."""

    def __init__(self, uid: int | None = None) -> None:
        self._trusted = {0, os.geteuid() if uid is None else uid}
        self._checked: dict[str, os.stat_result] = {}

    def check(self, path: Path) -> None:
        """Raises UnsafeModel that names the part which others may change; nothing where the way ends before ``path``.

        ``path`` is absolute or relative to the current folder.
        """
        parts = list(reversed(Path.cwd().joinpath(path).parts[1:]))  # not resolved: links are parts of the way
        here = "/"
        links = 0
        status = self._look(here, None)
        while status is not None and parts:
            part = parts.pop()
            if part == "..":
                here = str(Path(here).parent)
                status = self._look(here, None)
                continue
            place = f"{here.rstrip('/')}/{part}"
            status = self._look(place, status)
            if status is None or not stat.S_ISLNK(status.st_mode):
                here = place
                continue
            links += 1
            if links > MOST_LINKS:
                raise UnsafeModel(f"{path} leads through more than {MOST_LINKS} links")
            target = Path(place).readlink()
            parts += [each for each in reversed(target.parts) if each != "/"]
            here = "/" if target.is_absolute() else here
            status = self._look(here, None)

    def _look(self, place: str, folder: os.stat_result | None) -> os.stat_result | None:
        """What ``place`` in ``folder`` is; None where nothing is there, or we may not look."""
        if (known := self._checked.get(place)) is not None:
            return known
        try:
            status = os.lstat(place)
        except OSError:
            return None  # whoever opens it says better what is wrong
        if not stat.S_ISLNK(status.st_mode):  # a link's own mode means nothing
            check_mode(status, place)
        if folder is not None and is_open_to_all(folder) and status.st_uid not in self._trusted:
            raise UnsafeModel(
                f"{place} belongs to user {status.st_uid}, neither to root nor to the daemon's user, in a folder where "
                f"everybody may create files: move it to a folder of yours, or chown it"
            )
        self._checked[place] = status
        return status


def is_open_to_all(folder: os.stat_result) -> bool:
    """Whether everybody may create files in a folder."""
    return bool(folder.st_mode & stat.S_IWOTH)


def check_mode(status: os.stat_result, path: str) -> None:
    """Raises UnsafeModel when everybody may change what a status is of; ``path`` is where it was opened or found."""
    if not status.st_mode & stat.S_IWOTH or (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX):
        return
    if _is_read_only(path):
        return
    what = "folder" if stat.S_ISDIR(status.st_mode) else "file"
    raise UnsafeModel(
        f"every user of this machine may change the {what} {path}, so a model that is loaded through it may be "
        f"anybody's: chmod o-w {path} (or mount it read-only)"
    )


def _is_read_only(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False
