"""CURVE keys and the files that they are kept in: the daemon's, a client's, and those that a daemon lets in.

    NAME.key    public = "…" and secret = "…", readable by its owner only
    NAME.pub    public = "…": one client that may come, named after the file

Keys are written in Z85, 40 characters each, as ZeroMQ does.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path

from embeddaemon.errors import ConfigError

KEY_SUFFIX = ".key"
PUBLIC_SUFFIX = ".pub"
DAEMON_KEY = "daemon" + KEY_SUFFIX
"""In the daemon's state folder, unless it is configured otherwise."""
CLIENTS_FOLDER = "clients"
"""There too: the public keys that may come."""

_MAX_FILE_BYTES = 4096
_Z85 = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Who somebody is, and the proof of it."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r})"


def checked_public(key: str, where: str) -> str:
    """A public key as it is written. Raises ConfigError."""
    if not _Z85.fullmatch(key):
        raise ConfigError(
            f"{where}: {key[:80]!r} is no public key: it has 40 characters, as `embeddaemon keys show` prints"
        )
    return key


def checked_name(name: str) -> str:
    """What a client's key may be called. Raises ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:80]!r} is no name for a key: letters, digits and _ . @ -, at most 64, a letter first"
        )
    return name


def read_pair(path: Path) -> KeyPair:
    """The keys of a file that nobody else can read. Raises ConfigError."""
    values = _read(path, secret=True)
    return KeyPair(_key_in(values, "public", path), _key_in(values, "secret", path))


def read_public(path: Path) -> str:
    """The key of a public file, which nobody else can write. Raises ConfigError."""
    return _key_in(_read(path, secret=False), "public", path)


def write_pair(path: Path, pair: KeyPair) -> None:
    """A new file for both, for its owner only. Raises ConfigError when there is one, or it cannot be written."""
    text = f'# A key of embeddaemon. Keep it to yourself.\npublic = "{pair.public}"\nsecret = "{pair.secret}"\n'
    _write(path, text, 0o600)


def write_public(path: Path, public: str) -> None:
    """A new file for a client that may come. Raises ConfigError when there is one, or it cannot be written."""
    _write(path, f'public = "{public}"\n', 0o644)


def allowed(folder: Path) -> dict[str, str]:
    """Public key to name, of all that may come; nobody where there is no folder.

    Raises ConfigError for a folder that cannot be read, and for a file in it that cannot be used.
    """
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - Path.glob takes a folder that it may not read for an empty one
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unreadable(f"folder of public keys {folder}", folder, error) from error
    paths = [folder / name for name in names if name.endswith(PUBLIC_SUFFIX) and not name.startswith(".")]
    return {read_public(path): path.stem for path in paths}


def remove_public(folder: Path, name: str) -> Path:
    """Deletes the file of the client that is called so, and returns where it was. Raises ConfigError."""
    path = folder / f"{checked_name(name)}{PUBLIC_SUFFIX}"
    try:
        path.unlink()
    except FileNotFoundError:
        raise ConfigError(f"no key of that name is allowed: there is no {path}") from None
    except OSError as error:
        raise ConfigError(f"key file {path} cannot be removed: {error.strerror or error}") from error
    return path


def _write(path: Path, text: str, mode: int) -> None:
    """The whole file or none: it takes its name when it is on the disk, and never that of another."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _write_part(part, text, mode)
            os.link(part, path)
        finally:
            part.unlink(missing_ok=True)
    except FileExistsError:
        raise ConfigError(f"{path} is there already: remove it first, if nobody needs it any more") from None
    except OSError as error:
        raise ConfigError(f"key file {path} cannot be written: {error.strerror or error}") from error


def _write_part(part: Path, text: str, mode: int) -> None:
    part.unlink(missing_ok=True)  # of a process of our number that was killed
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path, *, secret: bool) -> dict[str, object]:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_MAX_FILE_BYTES) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise _unreadable(f"key file {path}", path, error) from error
    others = stat.S_IMODE(status.st_mode) & (0o077 if secret else 0o022)
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"key file {path} belongs to user {status.st_uid}: it must be this user's or root's")
    if others:
        can = "read or write" if secret else "write"
        raise ConfigError(f"others can {can} key file {path}: chmod {'600' if secret else 'go-w'} {path}")
    try:
        return tomllib.loads(content.decode())
    except ValueError as error:
        raise ConfigError(f"key file {path} is none: {error}") from error


def _unreadable(what: str, path: Path, error: OSError) -> ConfigError:
    message = f"{what} cannot be read: {error.strerror or error}"
    if isinstance(error, PermissionError):
        uid = os.geteuid()
        message += f". It must be open to user {uid}, which this process is: as root, `chown -R {uid} {path}`"
    return ConfigError(message)


def _key_in(values: dict[str, object], name: str, path: Path) -> str:
    key = values.get(name)
    if not isinstance(key, str) or not _Z85.fullmatch(key):
        raise ConfigError(
            f"key file {path} has no {name} key: remove it, and make one with `embeddaemon keys new {path}`"
        )
    return key
