"""Who goes first: interactive before bulk, and bulk never without its share."""

from __future__ import annotations

from embeddaemon.protocol.messages import Lane
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.requests.dispatch import CREDITS, HOLD_BACK
from embeddaemon.supervisor.requests.pace import DISPATCH_SECONDS
from tests.support.supervisor_story import CLIENT, Story
from tests.support.supervisor_world import Held, Process


class Timed:
    """A story whose one worker computes as many bytes per second as the supervisor believes, interactive ones first."""

    def __init__(self) -> None:
        self.story = Story()
        self.story.load()
        self.story.run()
        self.pace = self.story.model().pace
        self.seconds = {Lane.INTERACTIVE: 0.0, Lane.BULK: 0.0}
        self._lanes: dict[object, tuple[Lane, int]] = {}

    def ask(self, lane: Lane, body_bytes: int) -> int:
        id_ = self.story.ask(lane=lane, body_bytes=body_bytes)
        self._lanes[CLIENT, id_] = (lane, body_bytes)
        return id_

    def keep_waiting(self, lane: Lane, body_bytes: int) -> None:
        """Enough of a lane in the queue for its next dispatches."""
        while sum(entry.body_bytes for entry in self.story.model().queue if entry.request.lane is lane) < 50_000:
            self.ask(lane, body_bytes)

    @property
    def worker(self) -> Process:
        return self.story.one(ChildKind.WORKER)

    def held(self, lane: Lane) -> list[Held]:
        return [each for each in self.worker.held if self._lanes[each.header][0] is lane]

    def compute_one(self) -> Lane:
        """The worker is through with its next request."""
        lane = Lane.INTERACTIVE if self.held(Lane.INTERACTIVE) else Lane.BULK
        request = self.held(lane)[0]
        seconds = self.pace.seconds(self._lanes[request.header][1])
        self.worker.held.remove(request)
        self.worker.held.insert(0, request)
        self.story.pass_time(seconds)
        self.seconds[lane] += seconds
        self.story.answer_one(self.worker)
        self.story.deliver(self.worker)
        return lane


def test_interactive_goes_to_a_worker_that_is_full_of_bulk_at_once() -> None:
    timed = Timed()
    for _ in range(10):
        timed.ask(Lane.BULK, timed.pace.dispatch_bytes)
    timed.ask(Lane.INTERACTIVE, 50)
    assert len(timed.held(Lane.BULK)) == CREDITS
    assert len(timed.held(Lane.INTERACTIVE)) == 1


def test_interactive_that_waits_is_handed_out_before_bulk() -> None:
    story = Story()
    story.ask(lane=Lane.BULK)
    story.ask(lane=Lane.INTERACTIVE)
    story.run()
    assert [held.header for held in story.one(ChildKind.WORKER).held] == [(CLIENT, 2), (CLIENT, 1)]


def test_bulk_keeps_a_tenth_of_the_time_while_interactive_never_ceases() -> None:
    timed = Timed()
    for _ in range(3000):
        timed.keep_waiting(Lane.INTERACTIVE, 1000)
        timed.keep_waiting(Lane.BULK, 4000)
        timed.compute_one()
    share = timed.seconds[Lane.BULK] / sum(timed.seconds.values())
    assert 0.1 <= share <= 0.25


def test_bulk_of_one_large_request_is_held_back_by_its_own_time_only() -> None:
    timed = Timed()
    size = 20 * timed.pace.dispatch_bytes
    large = timed.ask(Lane.BULK, size)
    since = timed.story.now
    while timed.story.outcome(large) == "open":
        timed.keep_waiting(Lane.INTERACTIVE, 1000)
        timed.compute_one()
    seconds = timed.pace.seconds(size)
    assert HOLD_BACK * seconds < timed.story.now - since < (HOLD_BACK + 1) * seconds + 3 * CREDITS * DISPATCH_SECONDS


def test_interactive_waits_for_no_bulk_that_is_on_time() -> None:
    timed = Timed()
    for _ in range(400):
        timed.keep_waiting(Lane.BULK, timed.pace.dispatch_bytes // 3)
        id_ = timed.ask(Lane.INTERACTIVE, 50)
        assert timed.compute_one() is Lane.INTERACTIVE
        assert timed.story.outcome(id_) == "ok"
        timed.compute_one()


def test_suspect_gets_its_worker_to_itself_also_beside_a_busy_lane() -> None:
    timed = Timed()
    suspect = timed.ask(Lane.BULK, 100)
    timed.story.kill(timed.worker)
    timed.story.run()
    timed.story.pass_time(10.0)
    timed.story.run()
    for _ in range(200):
        timed.ask(Lane.INTERACTIVE, 500)
        if timed.story.outcome(suspect) == "ok":
            break
        timed.compute_one()
    assert timed.story.outcome(suspect) == "ok"
