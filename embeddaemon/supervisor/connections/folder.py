"""The folder of the socket: made, or looked at, and with it every folder on the way there. I/O.

Whoever can write to one of them, or owns it, can put another folder in the place of the next one and so another socket
in the place of ours. A folder with the sticky bit, such as /tmp, may be written by everybody: nobody can replace there
what is another's, and what is on our way belongs to us or to root.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from embeddaemon.errors import ConfigError

_MOST_LINKS = 40
"""As many as Linux follows."""

_PID_NAMESPACE_OF_THE_MACHINE = 0xEFFFFFFC
"""Its inode on every Linux (PROC_PID_INIT_INO)."""

_CHOOSE = "or choose another endpoint"


def prepare_folder(folder: Path, mode: int) -> bool:
    """Make the folder, or see that the one that is there is a folder that only we and root can write; True: it is new.

    Raises ConfigError, with what to do.
    """
    try:
        _check_way(folder.parent)
        is_new = _make(folder, mode)
        status = folder.lstat()
    except OSError as error:
        raise ConfigError(f"the socket's folder {folder} cannot be made: {error}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(
            f"the socket's folder {folder} is not a folder of its own (a link, or a file): remove it {_CHOOSE}"
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"the socket's folder {folder} belongs to user {status.st_uid}, who could replace the socket: give the "
            f"socket a folder of its own, or give this one to the daemon's user (chown {os.geteuid()} {folder})"
        )
    for bit, who, what in ((stat.S_IWOTH, "everybody", "o-w"), (stat.S_IWGRP, f"group {status.st_gid}", "g-w")):
        if status.st_mode & bit:
            raise ConfigError(
                f"{who} can write to the socket's folder {folder} and could replace the socket: give the socket a "
                f"folder of its own, or take the permission away (chmod {what} {folder})"
            )
    return is_new


def _make(folder: Path, mode: int) -> bool:
    """Whether it was not there. Missing ones on the way are made for us to write only, whatever the umask."""
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):
            each.mkdir(0o755)
            each.chmod(mode if each == folder else 0o755)
    return bool(missing)


def _check_way(folder: Path) -> None:
    """All folders from the root to this one, as the kernel goes, as far as they are there. Raises ConfigError."""
    parts = list(reversed(folder.parts[1:]))
    here, links = Path("/"), 0
    while parts:
        part = parts.pop()
        if part == "..":
            here = here.parent
            continue
        place = here / part
        try:
            status = place.lstat()
        except OSError:
            return  # made by us below what was looked at, or mkdir says why not
        _check_owner(place, status)
        if not stat.S_ISLNK(status.st_mode):
            _check_mode(place, status)
            here = place
            continue
        links += 1
        if links > _MOST_LINKS:
            raise ConfigError(f"the socket's folder {folder} leads through more than {_MOST_LINKS} links")
        target = place.readlink()
        parts += [each for each in reversed(target.parts) if each != "/"]
        here = Path("/") if target.is_absolute() else here


def _check_owner(place: Path, status: os.stat_result) -> None:
    if status.st_uid in (os.geteuid(), 0) or _is_unmapped(status.st_uid) or _is_volume(place):
        return
    raise ConfigError(
        f"{place}, on the way to the socket, belongs to user {status.st_uid}, who could replace what is below: give it "
        f"to root (chown root {place}) {_CHOOSE}"
    )


def _check_mode(place: Path, status: os.stat_result) -> None:
    is_open = status.st_mode & (stat.S_IWOTH | stat.S_IWGRP)
    if not is_open or status.st_mode & stat.S_ISVTX or _is_volume(place):
        return
    who = "everybody" if status.st_mode & stat.S_IWOTH else f"group {status.st_gid}"
    raise ConfigError(
        f"{who} can write to {place}, on the way to the socket, and could replace what is below: take the permission "
        f"away (chmod go-w {place}), or make it a folder where nobody can replace another's (chmod +t {place}), "
        f"{_CHOOSE}"
    )


def _is_unmapped(uid: int) -> bool:
    """Whether the owner has no number here, as root has none in many a sandbox: nobody in here can be him."""
    try:
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
        lines = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    except OSError:
        return False
    return uid == overflow and not any(int(first) <= uid < int(first) + int(count) for first, _, count in lines)


def _is_volume(place: Path) -> bool:
    """Whether it is mounted into a container: who else reaches it was decided by whoever mounted it.

    Kubernetes makes its volumes writable by everybody, and gives no way to have them otherwise.
    """
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
        return namespace != _PID_NAMESPACE_OF_THE_MACHINE and place.is_mount()
    except OSError:
        return False
