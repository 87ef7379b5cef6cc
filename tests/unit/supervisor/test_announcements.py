"""What the service manager is told, and when: a story at a time."""

from __future__ import annotations

import math

from embeddaemon.supervisor.events import DrainRequested
from embeddaemon.supervisor.surroundings.announcements import (
    EXTEND_EVERY_SECONDS,
    EXTENSION_SECONDS,
    LOOK_SECONDS,
    Announcer,
    Assignments,
)
from tests.support.supervisor_story import Story, spec


class Daemon:
    """Its status line is set by hand, and looks at it are counted."""

    def __init__(self, watchdog_seconds: float | None = None) -> None:
        self.announcer = Announcer(watchdog_seconds)
        self.line = "ready: mini"
        self.looks = 0

    def turn(self, now: float) -> Assignments:
        return self.announcer.turn(now, self._status)

    def _status(self, now: float) -> str:
        self.looks += 1
        return self.line


def test_first_turn_says_that_the_socket_answers_and_what_is_going_on() -> None:
    assert Daemon().turn(10.0) == {"READY": "1", "STATUS": "ready: mini"}


def test_nothing_is_said_while_nothing_changes() -> None:
    daemon = Daemon()
    daemon.turn(10.0)
    assert daemon.turn(11.0) == {}
    assert daemon.turn(3600.0) == {}


def test_idle_daemon_without_a_watchdog_is_not_woken() -> None:
    daemon = Daemon()
    daemon.turn(10.0)
    assert daemon.announcer.next_due() == math.inf


def test_changed_status_is_said_and_looked_for_only_now_and_then() -> None:
    daemon = Daemon()
    daemon.turn(10.0)
    daemon.line = "loading: mini"
    assert daemon.turn(10.0 + LOOK_SECONDS / 2) == {}
    assert daemon.looks == 1
    assert daemon.announcer.next_due() == 10.0 + LOOK_SECONDS
    assert daemon.turn(10.0 + LOOK_SECONDS) == {"STATUS": "loading: mini"}
    assert daemon.announcer.next_due() == math.inf


def test_sign_of_life_comes_with_a_turn_at_half_of_the_watchdogs_time() -> None:
    daemon = Daemon(watchdog_seconds=30.0)
    assert daemon.turn(10.0)["WATCHDOG"] == "1"
    assert daemon.announcer.next_due() == 25.0
    assert daemon.turn(24.0) == {}
    assert daemon.turn(25.5) == {"WATCHDOG": "1"}
    assert daemon.turn(25.6) == {}
    assert daemon.announcer.next_due() <= 40.5


def test_stopping_is_said_once() -> None:
    daemon = Daemon()
    daemon.turn(10.0)
    assert daemon.announcer.stopping(11.0) == {"STOPPING": "1"}
    assert daemon.announcer.stopping(12.0) == {}


def test_more_time_to_stop_is_asked_for_again_and_again() -> None:
    daemon = Daemon()
    daemon.turn(10.0)
    daemon.announcer.stopping(11.0)
    extension = {"EXTEND_TIMEOUT_USEC": str(int(EXTENSION_SECONDS * 1_000_000))}
    assert daemon.turn(11.0) == extension
    assert daemon.announcer.next_due() == 11.0 + EXTEND_EVERY_SECONDS
    assert daemon.turn(12.0) == {}
    assert daemon.turn(11.0 + EXTEND_EVERY_SECONDS) == extension
    assert EXTENSION_SECONDS > 2 * EXTEND_EVERY_SECONDS, "one that is late must not end us"


def test_status_is_looked_at_at_once_when_we_are_asked_to_stop() -> None:
    daemon = Daemon()
    daemon.turn(10.0)
    daemon.line = "draining"
    daemon.announcer.stopping(10.01)
    assert daemon.turn(10.01)["STATUS"] == "draining"


def test_reload_says_when_it_began_and_then_that_we_are_ready() -> None:
    daemon = Daemon()
    daemon.turn(10.0)
    assert daemon.announcer.reloading(12.5) == {"RELOADING": "1", "MONOTONIC_USEC": "12500000"}
    assert daemon.announcer.reloaded() == {"READY": "1"}


def test_reload_before_the_first_turn_does_not_say_that_we_are_ready() -> None:
    announcer = Announcer(None)
    assert announcer.reloading(1.0) == {}
    assert announcer.reloaded() == {}


def test_reload_while_stopping_does_not_say_that_we_are_ready() -> None:
    daemon = Daemon()
    daemon.turn(10.0)
    daemon.announcer.stopping(11.0)
    assert daemon.announcer.reloading(12.0) == {}
    assert daemon.announcer.reloaded() == {}


def test_status_line_follows_models_and_memory() -> None:
    story = Story(spec("a"), spec("b"))
    assert story.supervisor.status_line(story.now) == "available: a, b; memory: 0 B of 2.0 GiB leased"
    story.ask(model="a")
    story.run()
    line = story.supervisor.status_line(story.now)
    assert line.startswith("ready: a; available: b; memory: ")
    assert not line.endswith(" 0 B of 2.0 GiB leased")


def test_status_line_says_what_a_drain_waits_for() -> None:
    story = Story()
    story.ask()
    story.tell(DrainRequested("test"))
    assert story.supervisor.status_line(story.now).startswith("draining: 1 request(s) to finish, ")


def test_status_line_of_many_models_stays_one_line() -> None:
    line = Story(*(spec(f"m{number}") for number in range(8))).supervisor.status_line(100.0)
    assert line.startswith("available: m0, m1, m2, m3, m4 and 3 more; ")
    assert "\n" not in line
