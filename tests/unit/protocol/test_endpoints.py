"""Where the daemon is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from embeddaemon.errors import ConfigError
from embeddaemon.protocol.endpoints import MAX_SOCKET_PATH_BYTES, checked, default_endpoint, socket_path


@pytest.mark.parametrize(
    ("environment", "system", "endpoint"),
    [
        ({"EMBEDDAEMON_ENDPOINT": "ipc:///a/b"}, True, "ipc:///a/b"),
        ({"EMBEDDAEMON_ENDPOINT": "/a/b"}, False, "ipc:///a/b"),
        ({}, True, "ipc:///run/embeddaemon/embeddaemon.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/5"}, False, "ipc:///run/user/5/embeddaemon/embeddaemon.sock"),
        ({}, False, "ipc:///tmp/embeddaemon-5/embeddaemon.sock"),
        ({"XDG_RUNTIME_DIR": ""}, False, "ipc:///tmp/embeddaemon-5/embeddaemon.sock"),
    ],
)
def test_default_is_the_environment_then_the_system_then_the_user(
    environment: dict[str, str], system: bool, endpoint: str
) -> None:
    assert default_endpoint(environment, 5, system_socket_exists=system) == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "ipc:///run/a\0b",
        "/run/\udcff",
        "relative/path",
        "tcp://127.0.0.1:5555",
        "ipc://relative",
        "ipc://@abstract",
        "ipc:///" + "x" * MAX_SOCKET_PATH_BYTES,
    ],
)
def test_endpoint_that_is_not_served_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        checked(endpoint)


def test_longest_path_is_allowed() -> None:
    path = "/" + "x" * (MAX_SOCKET_PATH_BYTES - 1)
    assert socket_path(f"ipc://{path}") == Path(path)
