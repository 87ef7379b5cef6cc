"""The connection's decider as tables: events in, actions out, time by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from embeddaemon.client._actions import Action, Close, Open, Patience, Phase, Probe, Send, Wake
from embeddaemon.client._core import ClientCore
from embeddaemon.client._window import Answered, Call, Piece, Window
from embeddaemon.errors import Busy, DaemonUnreachable, Expired, InvalidInput, ProtocolError, UnsupportedVersion
from embeddaemon.protocol import codec
from embeddaemon.protocol.fields import pack
from embeddaemon.protocol.limits import VERSION
from embeddaemon.protocol.messages import Answer, Cancel, Document, Embed, ErrorAnswer, Hello, Request, Waiting

ENDPOINT = "ipc:///run/test/s"
PATIENCE = Patience()


@dataclass
class Driver:
    """A core, a clock, and what a wire would do with the sends."""

    core: ClientCore = field(default_factory=lambda: ClientCore(ENDPOINT, PATIENCE, lambda: 0.0))
    now: float = 100.0
    sent: list[Request] = field(default_factory=list)

    def after(self, seconds: float) -> Driver:
        self.now += seconds
        return self

    def kinds(self, actions: list[Action]) -> list[type[Action]]:
        self.sent += [codec.decode_request(action.header) for action in actions if isinstance(action, Send)]
        return [type(action) for action in actions]

    def submit(self, call: Call, number: int = 0, offset: int = 0) -> list[type[Action]]:
        piece = Piece(number, offset, 1, Embed(id=0), b"body")
        return self.kinds(self.core.submit(call, piece, self.now))

    def opened(self) -> list[type[Action]]:
        return self.kinds(self.core.opened(self.now))

    def unreachable(self) -> list[type[Action]]:
        return self.kinds(self.core.unreachable("nobody there", self.now))

    def reachable(self) -> list[type[Action]]:
        return self.kinds(self.core.reachable(self.now))

    def tick(self) -> list[type[Action]]:
        return self.kinds(self.core.tick(self.now))

    def receive(self, answer: Answer, *frames: bytes) -> list[type[Action]]:
        return self.kinds(self.core.received([codec.encode_answer(answer), *frames], self.now))

    def greet(self, instance: str = "one", version: int = VERSION) -> list[type[Action]]:
        hello = self.sent[-1]
        assert isinstance(hello, Hello)
        document = codec.encode_document({"v": version, "version": "1.2.3", "instance": instance})
        return self.receive(Document(id=hello.id), document)

    def withdrawn(self) -> tuple[int, ...]:
        cancel = self.sent[-1]
        assert isinstance(cancel, Cancel)
        return cancel.ids

    def answer_last(self) -> list[type[Action]]:
        return self.receive(Document(id=self.sent[-1].id), codec.encode_document({}))

    def refuse_last(
        self, code: str, *, retry_after_ms: int | None = None, index: int | None = None
    ) -> list[type[Action]]:
        details = {} if index is None else {"index": index}
        answer = ErrorAnswer(
            id=self.sent[-1].id,
            code=code,
            message=f"text {index} is bad",
            retry_after_ms=retry_after_ms,
            details=details,
        )
        return self.receive(answer)


def ready(call: Call | None = None) -> Driver:
    """A driver whose core has said HELLO and has nothing in flight, or one piece of ``call``."""
    driver = Driver()
    first = Call(wait_seconds=30)
    driver.submit(first)
    driver.opened()
    driver.greet()
    driver.answer_last()
    assert first.take() is not None
    if call is not None:
        driver.submit(call)
    return driver


def test_first_piece_opens_a_socket_and_waits_for_hello() -> None:
    driver, call = Driver(), Call(wait_seconds=30)
    assert driver.submit(call) == [Open]
    assert driver.submit(call, 1) == []
    assert driver.opened() == [Send]
    assert isinstance(driver.sent[-1], Hello)
    assert driver.greet() == [Send, Send]
    assert [type(request) for request in driver.sent] == [Hello, Embed, Embed]
    assert driver.core.phase is Phase.READY


def test_ids_are_never_used_twice() -> None:
    driver, call = ready(), Call(wait_seconds=30)
    for number in range(4):
        driver.submit(call, number)
    ids = [request.id for request in driver.sent]
    assert len(set(ids)) == len(ids)


def test_deadline_on_the_wire_is_what_is_left_of_it() -> None:
    driver, call = Driver(), Call(wait_seconds=30)
    driver.submit(call)
    driver.after(0.6).opened()
    driver.after(0.4).greet()
    assert driver.sent[-1].deadline_ms == 29_000


def test_answer_is_delivered_to_its_call_alone() -> None:
    one, other = Call(wait_seconds=30), Call(wait_seconds=30)
    driver = ready(one)
    driver.submit(other)
    assert driver.answer_last() == [Wake]
    assert isinstance(other.take(), Answered)
    assert one.take() is None


def test_nobody_listening_is_said_after_the_patience_and_not_before() -> None:
    driver, call = Driver(), Call(wait_seconds=30)
    driver.submit(call)
    assert driver.unreachable() == []
    assert driver.core.wakeup() == pytest.approx(driver.now + PATIENCE.attempt)
    assert driver.after(0.5).tick() == [Open]
    assert driver.unreachable() == []
    assert driver.after(0.5).tick() == [Open]
    assert driver.unreachable() == [Close, Wake]
    with pytest.raises(DaemonUnreachable, match=r"ipc:///run/test/s.*nobody there.*embeddaemon serve"):
        call.take()
    assert driver.core.phase is Phase.CLOSED
    assert driver.core.wakeup() is None


def test_daemon_that_comes_within_the_patience_is_used() -> None:
    driver, call = Driver(), Call(wait_seconds=30)
    driver.submit(call)
    driver.unreachable()
    driver.after(0.9).tick()
    assert driver.opened() == [Send]
    assert driver.greet() == [Send]


def test_listener_that_says_nothing_is_unreachable_in_the_end() -> None:
    driver, call = Driver(), Call(wait_seconds=30)
    driver.submit(call)
    driver.opened()
    assert driver.after(1).tick() == [Send, Probe]
    assert driver.after(4).tick() == [Close, Wake]
    with pytest.raises(DaemonUnreachable, match="takes connections and does not answer"):
        call.take()


def test_listener_that_goes_away_before_hello_is_tried_again() -> None:
    driver, call = Driver(), Call(wait_seconds=30)
    driver.submit(call)
    driver.opened()
    assert driver.after(1).tick() == [Send, Probe]
    assert driver.unreachable() == [Close]
    assert driver.after(0.1).tick() == [Open]


@pytest.mark.parametrize(
    ("version", "who"),
    [(VERSION + 1, "the client is older: upgrade it"), (0, "the daemon is older: upgrade and restart it")],
)
def test_other_version_says_who_is_older(version: int, who: str) -> None:
    driver, call = Driver(), Call(wait_seconds=30)
    driver.submit(call)
    driver.opened()
    assert driver.greet(version=version) == [Close, Wake]
    with pytest.raises(UnsupportedVersion, match=who):
        call.take()


def test_daemon_that_cannot_read_hello_says_who_is_older() -> None:
    driver, call = Driver(), Call(wait_seconds=30)
    driver.submit(call)
    driver.opened()
    answer = ErrorAnswer(id=0, code="unsupported_version", message="no", details={"spoken": VERSION + 1})
    assert driver.receive(answer) == [Close, Wake]
    with pytest.raises(UnsupportedVersion, match="client is older"):
        call.take()


def test_silence_is_answered_by_a_ping_and_a_probe() -> None:
    call = Call(wait_seconds=30)
    driver = ready(call)
    assert driver.core.wakeup() == pytest.approx(driver.now + PATIENCE.silence)
    assert driver.after(0.9).tick() == []
    assert driver.after(0.1).tick() == [Send, Probe]
    assert isinstance(driver.sent[-1], Hello)
    assert driver.reachable() == []
    assert driver.greet("one") == []
    assert driver.core.phase is Phase.READY


def test_successor_gets_every_piece_again_under_a_new_id() -> None:
    call = Call(wait_seconds=30)
    driver = ready(call)
    driver.submit(call, 1)
    old = [request.id for request in driver.sent if isinstance(request, Embed)][-2:]
    driver.after(1).tick()
    assert driver.greet("two") == [Close, Open]
    assert driver.opened() == [Send]
    assert driver.greet("two") == [Send, Send]
    new = [request.id for request in driver.sent[-2:]]
    assert set(new).isdisjoint(old)
    late = Document(id=old[0])
    assert driver.receive(late, codec.encode_document({})) == []
    assert driver.core.strays == 1


def test_daemon_that_is_gone_in_mid_call_is_waited_for() -> None:
    call = Call(wait_seconds=30)
    driver = ready(call)
    driver.after(1).tick()
    assert driver.unreachable() == [Close, Open]
    assert driver.unreachable() == []
    assert driver.after(1.9).tick() == [Open]
    assert driver.unreachable() == []
    assert driver.after(0.1).tick() == [Open]
    assert driver.unreachable() == [Close, Wake]
    with pytest.raises(DaemonUnreachable):
        call.take()


def test_idle_connection_is_probed_before_it_is_used() -> None:
    driver, call = ready(), Call(wait_seconds=30)
    assert driver.after(1).submit(call) == [Probe]
    assert driver.reachable() == [Send]


def test_idle_connection_to_nobody_is_opened_anew() -> None:
    driver, call = ready(), Call(wait_seconds=30)
    driver.after(1).submit(call)
    assert driver.unreachable() == [Close, Open]
    assert driver.after(1).unreachable() == [Close, Wake]
    with pytest.raises(DaemonUnreachable):
        call.take()


def test_busy_piece_is_sent_again_after_the_hint() -> None:
    call = Call(wait_seconds=30)
    driver = ready(call)
    before = call.window.size
    assert driver.refuse_last("busy", retry_after_ms=200) == []
    assert call.window.size < before
    assert driver.core.wakeup() == pytest.approx(driver.now + 0.2)
    assert driver.after(0.1).tick() == []
    assert driver.after(0.11).tick() == [Send]
    assert driver.answer_last() == [Wake]


@pytest.mark.parametrize("retry_after_ms", [None, 40_000], ids=["no hint", "beyond the deadline"])
def test_busy_is_raised_when_there_is_no_time_to_come_back(retry_after_ms: int | None) -> None:
    call = Call(wait_seconds=30)
    driver = ready(call)
    assert driver.refuse_last("busy", retry_after_ms=retry_after_ms) == [Wake]
    with pytest.raises(Busy):
        call.take()


def test_error_names_the_text_by_its_place_in_the_call() -> None:
    driver, call = ready(), Call(wait_seconds=30)
    driver.submit(call, 0, offset=128)
    driver.refuse_last("invalid_input", index=3)
    with pytest.raises(InvalidInput, match="text 131 is bad") as caught:
        call.take()
    assert caught.value.details["index"] == 131


def test_piece_without_answer_expires_a_little_after_its_deadline() -> None:
    call = Call(wait_seconds=0.5)
    driver = ready(call)
    assert driver.core.wakeup() == pytest.approx(driver.now + 0.5 + PATIENCE.late)
    assert driver.after(0.5).tick() == []
    asked = driver.sent[-1].id
    assert driver.after(PATIENCE.late).tick() == [Wake, Send]
    assert driver.withdrawn() == (asked,)
    with pytest.raises(Expired, match=r"no answer within 0\.5 s"):
        call.take()
    assert driver.core.wakeup() is None


def test_deadline_in_the_past_is_not_sent() -> None:
    driver, call = ready(), Call(wait_seconds=-1)
    assert driver.submit(call) == [Wake]
    with pytest.raises(Expired):
        call.take()


def test_deadline_while_connecting_is_told_as_unreachable() -> None:
    driver, call = Driver(), Call(wait_seconds=0.1)
    driver.submit(call)
    driver.unreachable()
    assert driver.after(0.4).tick()[0] is Wake
    with pytest.raises(DaemonUnreachable):
        call.take()


def test_answer_that_cannot_be_read_ends_its_piece() -> None:
    call = Call(wait_seconds=30)
    driver = ready(call)
    broken = pack({"id": driver.sent[-1].id, "ok": "perhaps"})
    assert driver.kinds(driver.core.received([broken], driver.now)) == [Wake]
    with pytest.raises(ProtocolError):
        call.take()


def test_noise_is_counted_and_changes_nothing() -> None:
    driver = ready(Call(wait_seconds=30))
    assert driver.kinds(driver.core.received([b"\xc1noise"], driver.now)) == []
    assert driver.core.strays == 1


def test_abandoned_call_leaves_nothing_to_wake_up_for() -> None:
    call = Call(wait_seconds=30)
    driver = ready(call)
    driver.kinds(driver.core.abandon(call))
    assert driver.core.wakeup() is None
    assert driver.answer_last() == []


def test_abandoned_call_is_withdrawn_with_every_piece_that_was_sent() -> None:
    call, other = Call(wait_seconds=30), Call(wait_seconds=30)
    driver = ready(call)
    driver.submit(call, 1)
    driver.submit(other)
    mine = tuple(request.id for request in driver.sent[-3:-1])
    assert driver.kinds(driver.core.abandon(call)) == [Send]
    assert driver.withdrawn() == mine


def test_more_pieces_than_fit_in_one_header_are_withdrawn_all_the_same() -> None:
    call = Call(wait_seconds=30, window=Window(size=3000))
    driver = ready()
    for number in range(3000):
        driver.submit(call, number)
    asked = {request.id for request in driver.sent[-3000:]}
    driver.sent.clear()
    driver.kinds(driver.core.abandon(call))
    assert {id_ for request in driver.sent if isinstance(request, Cancel) for id_ in request.ids} == asked


def test_piece_that_was_not_sent_needs_no_withdrawal() -> None:
    call = Call(wait_seconds=30)
    driver = ready(call)
    driver.refuse_last("busy", retry_after_ms=500)
    assert driver.kinds(driver.core.abandon(call)) == []


def test_sign_of_life_is_no_answer_and_saves_a_ping() -> None:
    driver = ready(Call(wait_seconds=30))
    driver.after(0.9)
    assert driver.kinds(driver.core.received([codec.encode_answer(Waiting(1))], driver.now)) == []
    assert driver.core.strays == 0
    assert driver.after(0.9).tick() == []


def test_call_that_times_out_repeats_what_the_daemon_said_it_waits_for() -> None:
    call = Call(wait_seconds=5)
    driver = ready(call)
    driver.kinds(driver.core.received([codec.encode_answer(Waiting(1, "loading mini"))], driver.now))
    driver.after(5 + PATIENCE.late).tick()
    with pytest.raises(Expired, match=r"no answer within 5 s .*; the daemon said: loading mini$") as caught:
        call.take()
    assert caught.value.details["why"] == "loading mini"


def test_reason_that_the_daemon_takes_back_is_not_repeated() -> None:
    call = Call(wait_seconds=5)
    driver = ready(call)
    for why in ("loading mini", None):
        driver.kinds(driver.core.received([codec.encode_answer(Waiting(1, why))], driver.now))
    driver.after(5 + PATIENCE.late).tick()
    with pytest.raises(Expired, match="give more time"):
        call.take()


def test_reason_of_a_call_that_has_ended_is_not_that_of_the_next() -> None:
    first, second = Call(wait_seconds=5), Call(wait_seconds=5)
    driver = ready(first)
    driver.kinds(driver.core.received([codec.encode_answer(Waiting(1, "loading mini"))], driver.now))
    driver.answer_last()
    driver.submit(second)
    driver.after(5 + PATIENCE.late).tick()
    with pytest.raises(Expired, match="give more time"):
        second.take()


def test_connection_that_nobody_waits_for_any_more_is_closed() -> None:
    driver, call = Driver(), Call(wait_seconds=30)
    driver.submit(call)
    assert driver.kinds(driver.core.abandon(call)) == [Close]
    assert driver.core.phase is Phase.CLOSED


def test_calls_that_fail_together_get_an_error_each() -> None:
    driver, one, other = Driver(), Call(wait_seconds=30), Call(wait_seconds=30)
    driver.submit(one)
    driver.submit(other)
    driver.after(2).unreachable()
    errors = []
    for call in (one, other):
        with pytest.raises(DaemonUnreachable) as caught:
            call.take()
        errors.append(caught.value)
    assert errors[0] is not errors[1]


def test_window_opens_when_answers_are_fast_and_closes_when_they_are_slow() -> None:
    window = Window()
    for _ in range(100):
        window.answered(0.1)
    assert window.size == window.largest
    for _ in range(100):
        window.answered(60.0)
    assert window.size == 1
    window.refused()
    assert window.size == 1
