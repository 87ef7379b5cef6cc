"""Where the daemon listens: the endpoint from what was given, and what one may be. Reads no environment itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from embeddaemon.errors import ConfigError

SOCKET_NAME = "embeddaemon.sock"
SYSTEM_SOCKET = Path("/run/embeddaemon") / SOCKET_NAME
"""Where the systemd service listens."""

MAX_SOCKET_PATH_BYTES = 107
"""sun_path of Linux less its final zero; macOS has 103."""


def user_socket(environment: Mapping[str, str], uid: int) -> Path:
    """The socket of a daemon that a user starts for himself."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime else Path(f"/tmp/embeddaemon-{uid}")  # noqa: S108 - listener.py refuses a folder that is not ours
    return folder / ("embeddaemon/" + SOCKET_NAME if runtime else SOCKET_NAME)


def default_endpoint(environment: Mapping[str, str], uid: int, *, system_socket_exists: bool) -> str:
    """``EMBEDDAEMON_ENDPOINT``, else the systemd socket where there is one, else the user's own."""
    given = environment.get("EMBEDDAEMON_ENDPOINT")
    if given:
        return checked_for_client(given)
    return f"ipc://{SYSTEM_SOCKET if system_socket_exists else user_socket(environment, uid)}"


def checked(endpoint: str) -> str:
    """The endpoint, if it is one that we speak; a bare path is an ipc endpoint. Raises ConfigError."""
    if endpoint.startswith("/"):
        endpoint = f"ipc://{endpoint}"
    if endpoint.startswith("ipc://@"):
        raise ConfigError(
            f"endpoint {endpoint!r}: abstract sockets have no file permissions and are not used; give a path"
        )
    if endpoint.startswith("tcp://"):
        raise ConfigError(
            f"endpoint {endpoint!r}: the daemon always has a socket on its own machine; where it serves the network, "
            "with keys only, is named beside it: tcp_endpoint in [access]"
        )
    if "\0" in endpoint or any("\ud800" <= each <= "\udfff" for each in endpoint):
        raise ConfigError(f"endpoint {endpoint!r}: the path must be UTF-8 and without zero bytes")
    if not endpoint.startswith("ipc:///"):
        raise ConfigError(
            f"endpoint {endpoint!r}: must be an absolute path, or ipc:// and one, as "
            f"ipc:///run/embeddaemon/{SOCKET_NAME}"
        )
    size = len(endpoint.removeprefix("ipc://").encode())
    if size > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"endpoint {endpoint!r}: the path has {size} bytes, the system allows {MAX_SOCKET_PATH_BYTES}"
        )
    return endpoint


def checked_tcp(endpoint: str) -> str:
    """An endpoint over the network: ``tcp://ADDRESS:PORT``. Raises ConfigError."""
    address, colon, port = endpoint.removeprefix("tcp://").rpartition(":")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 1 << 16
    if not endpoint.startswith("tcp://") or not colon or not address or not is_port:
        raise ConfigError(f"endpoint {endpoint!r}: must be tcp://ADDRESS:PORT, as tcp://127.0.0.1:7997")
    return endpoint


def checked_for_client(endpoint: str) -> str:
    """What a client may connect to: a socket's path, or tcp. Raises ConfigError."""
    return checked_tcp(endpoint) if endpoint.startswith("tcp://") else checked(endpoint)


def socket_path(endpoint: str) -> Path:
    """The path of an ipc endpoint."""
    return Path(checked(endpoint).removeprefix("ipc://"))
