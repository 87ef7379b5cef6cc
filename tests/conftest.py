"""Fixtures for every test: short socket folders, and the watch that a test leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import leaks
from tests.support.sockets import short_folder, socket_files

leaks.watch()

# A slow machine is no counter-example.
hypothesis.settings.register_profile(
    "embeddaemon", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("embeddaemon")


@pytest.fixture(scope="session", autouse=True)
def state_of_no_other_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this machine's daemons learned is neither used nor changed by the daemons of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_by_the_run() -> Iterator[None]:
    """What fixtures of a wider scope started is gone at the end of the run."""
    before = leaks.take_snapshot()
    yield
    _fail_on_leaks(before)


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a process, a thread, an open zmq context or a socket file fails.

    Fixtures of a wider scope are set up before this one: their processes and all descendants are not the test's.
    """
    before = leaks.take_snapshot()
    yield
    _fail_on_leaks(before)
    tmp_path = request.node.funcargs.get("tmp_path")
    if tmp_path is not None and (left := socket_files(tmp_path)):
        pytest.fail(f"socket files are left: {', '.join(map(str, left))}")


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder with a short path for the sockets of one test."""
    with short_folder() as folder:
        yield folder


def _fail_on_leaks(before: leaks.Snapshot) -> None:
    left = leaks.leaks_since(before)
    if left:
        leaks.kill_processes_since(before)
        pytest.fail("left behind:\n  " + "\n  ".join(left))
