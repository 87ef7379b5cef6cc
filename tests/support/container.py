"""A command as the first process of something like a container: ``python container.py OPTIONS -- COMMAND``.

Run by ``unshare --pid --fork --mount --mount-proc``, as root. Before COMMAND takes its place, with the same pid 1,
nothing but the given folders can be written to, /tmp is empty, and it has the given uid, the group of that number and
the given ones, no HOME, and no variable but PATH and those that are given.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

STAGE = Path("/mnt")
"""Where folders that lie below what is hidden are kept meanwhile. It is there on every Linux."""

UNSHARE = ("unshare", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child")


def missing() -> str | None:
    """Why it cannot be run here; None: it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces are made by root on Linux"
    if None in [shutil.which(name) for name in ("unshare", "nsenter", "mount")]:
        return "unshare, nsenter or mount is not installed"
    tried = subprocess.run([*UNSHARE, "mount", "--make-rprivate", "/"], capture_output=True, text=True, check=False)
    return f"namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else None


def command(
    given: Sequence[str],
    *,
    keep: Sequence[Path],
    writable: Sequence[Path],
    uid: int,
    groups: Sequence[int] = (),
    environment: Mapping[str, str],
) -> list[str]:
    """What starts ``given`` that way. ``keep`` is still seen where it is, ``writable`` may be written to as well.

    Of ``keep`` those that lie in others are left out.
    """
    keep = topmost(keep)
    options = [f"--keep={path}" for path in keep] + [f"--writable={path}" for path in writable]
    variables = [f"--env={name}={value}" for name, value in environment.items()]
    variables += [f"--group={group}" for group in groups]
    program = [sys.executable, str(Path(__file__).resolve()), f"--uid={uid}", *options, *variables]
    return [*UNSHARE, *program, "--", *given]


def enter(keep: Sequence[Path], writable: Sequence[Path], uid: int, groups: Sequence[int]) -> None:
    """Change the mount namespace, which is this process's own, and give up being root."""
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "none", str(STAGE))
    staged = {path: STAGE / str(number) for number, path in enumerate([*keep, *writable])}
    for path, place in staged.items():
        place.mkdir()
        mount("--bind", str(path), str(place))
    for hidden in topmost([Path("/tmp"), *unreachable(keep)]):
        mount("-t", "tmpfs", "-o", "mode=0755", "none", str(hidden))
    for path, place in staged.items():
        path.mkdir(parents=True, exist_ok=True)
        mount("--bind", str(place), str(path))
    untouched = [Path("/proc"), Path("/dev"), Path("/sys"), *writable]
    for point in mount_points():
        if not any(point.is_relative_to(kept) for kept in untouched):
            mount("-o", "remount,bind,ro", str(point))
    os.chdir("/")
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def topmost(paths: Sequence[Path]) -> list[Path]:
    """Without those that lie in others of them."""
    different = set(paths)
    return [path for path in different if not any(path.is_relative_to(other) for other in different - {path})]


def unreachable(keep: Sequence[Path]) -> Iterator[Path]:
    """The topmost folders above those to keep that are closed to strangers: a home folder with the interpreter."""
    for path in keep:
        closed = [above for above in reversed(path.parents) if above.stat().st_mode & 0o001 == 0]
        yield from closed[:1]


def mount_points() -> list[Path]:
    """Those that are seen."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]
    return [point for point in points if point.exists()]


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", type=Path, action="append", default=[])
    parser.add_argument("--writable", type=Path, action="append", default=[])
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--group", type=int, action="append", default=[])
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(argv)
    enter(options.keep, options.writable, options.uid, options.group)
    given = dict(pair.split("=", 1) for pair in options.env)
    os.execve(options.command[0], options.command, {"PATH": "/usr/bin:/bin", **given})


if __name__ == "__main__":
    main(sys.argv[1:])
