"""Where the daemon keeps what it found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from embeddaemon.config.state_folder import state_folder


@pytest.mark.parametrize(
    ("environment", "uid", "expected"),
    [
        ({"HOME": "/home/a"}, 1000, "/home/a/.local/state/embeddaemon"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": "/s"}, 1000, "/s/embeddaemon"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": "relative"}, 1000, "/home/a/.local/state/embeddaemon"),
        ({"HOME": "/root", "XDG_STATE_HOME": "/s"}, 0, "/var/lib/embeddaemon"),
        ({"HOME": "/home/a", "STATE_DIRECTORY": "/var/lib/private/x:/var/lib/y"}, 1000, "/var/lib/private/x"),
        ({"STATE_DIRECTORY": "/var/lib/x"}, 0, "/var/lib/x"),
    ],
)
def test_state_folder_is_where_the_system_says(environment: dict[str, str], uid: int, expected: str) -> None:
    assert state_folder(environment, uid) == Path(expected)


def test_user_whom_the_systems_folder_belongs_to_means_it() -> None:
    home = {"HOME": "/var/lib/embeddaemon", "XDG_STATE_HOME": "/s"}
    assert state_folder(home, 999, 999) == Path("/var/lib/embeddaemon")
    assert state_folder(home, 1000, 999) == Path("/s/embeddaemon")
    assert state_folder(home | {"STATE_DIRECTORY": "/x"}, 999, 999) == Path("/x")


def test_without_a_home_there_is_no_state_folder() -> None:
    assert state_folder({}, 1000) is None
