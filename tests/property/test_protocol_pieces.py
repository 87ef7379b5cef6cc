"""Pieces keep every text once and in order; whatever a daemon does, every call ends, and gets its answers in order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from embeddaemon.client._actions import Action, Close, Open, Patience, Probe, Send
from embeddaemon.client._core import ClientCore
from embeddaemon.client._window import Call, Cutter, Piece, Window, cut
from embeddaemon.errors import EmbedDaemonError
from embeddaemon.protocol import codec
from embeddaemon.protocol.limits import VERSION
from embeddaemon.protocol.messages import Document, Embed, ErrorAnswer, Hello, Request


@given(
    st.lists(st.text(max_size=30), max_size=60),
    st.integers(1, 10),
    st.integers(1, 60),
)
def test_pieces_keep_every_text_once_and_in_order(texts: list[str], max_texts: int, max_characters: int) -> None:
    pieces = list(cut(texts, max_texts=max_texts, max_characters=max_characters))
    assert [text for piece in pieces for text in piece] == texts
    for piece in pieces:
        assert 1 <= len(piece) <= max_texts
        assert len(piece) == 1 or sum(map(len, piece)) <= max_characters


@given(st.lists(st.text(max_size=30), max_size=60))
def test_pieces_are_as_large_as_allowed(texts: list[str]) -> None:
    cutter = Cutter(max_texts=3, max_characters=20)
    pieces = [piece for text in texts if (piece := cutter.add(text))]
    for piece, following in pairwise([*pieces, cutter.rest()]):
        assert len(piece) == 3 or sum(map(len, piece)) + len(following[0]) > 20


@given(st.lists(st.floats(0, 100) | st.none(), max_size=100))
def test_window_never_closes_and_never_grows_beyond_its_bounds(answers: list[float | None]) -> None:
    window = Window()
    for seconds in answers:
        window.refused() if seconds is None else window.answered(seconds)
        assert 1 <= window.size <= window.largest


class AnyDaemon(RuleBasedStateMachine):
    """A core, a wire that does anything a wire can do, and calls that must all end, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.core = ClientCore("ipc:///x", Patience(), lambda: 0.5)
        self.now = 0.0
        self.to_do: list[Action] = []
        self.on_wire: list[Request] = []
        self.has_socket = False
        self.instance = 0
        self.calls: list[Call] = []
        self.submitted: dict[Call, int] = {}
        self.taken: dict[Call, list[int]] = {}

    def do(self, actions: list[Action]) -> None:
        self.to_do += actions
        while self.to_do and not isinstance(self.to_do[0], Open | Probe):
            match self.to_do.pop(0):
                case Send(header, _):
                    assert self.has_socket, "sent without a socket"
                    self.on_wire.append(codec.decode_request(header))
                case Close():
                    self.has_socket = False
                    self.on_wire.clear()
                case _:
                    pass

    def settle(self, *, listens: bool) -> None:
        """Answer the question that the core asks the wire, if it asks one."""
        match self.to_do.pop(0):
            case Open() if listens:
                self.has_socket = True
                follow = self.core.opened(self.now)
            case Probe() if listens:
                follow = self.core.reachable(self.now)
            case _:
                follow = self.core.unreachable("nobody", self.now)
        rest, self.to_do = self.to_do, []
        self.do(rest + follow)

    @precondition(lambda self: self.to_do)
    @rule(listens=st.booleans())
    def wire_answers(self, listens: bool) -> None:
        self.settle(listens=listens)

    @precondition(lambda self: not self.to_do and len(self.calls) < 5)
    @rule(wait_seconds=st.sampled_from([0.0, 0.5, 3.0, 30.0]))
    def call(self, wait_seconds: float) -> None:
        call = Call(wait_seconds=wait_seconds)
        self.calls.append(call)
        self.submitted[call] = 0
        self.taken[call] = []

    @precondition(lambda self: not self.to_do and any(call.has_room for call in self.calls))
    @rule(pick=st.randoms(use_true_random=False))
    def submit(self, pick: object) -> None:
        call = pick.choice([call for call in self.calls if call.has_room])  # type: ignore[attr-defined]  # a Random
        piece = Piece(self.submitted[call], self.submitted[call] * 10, 10, Embed(id=0), b"")
        self.submitted[call] += 1
        self.do(self.core.submit(call, piece, self.now))

    @precondition(lambda self: not self.to_do and self.on_wire)
    @rule(
        pick=st.randoms(use_true_random=False),
        kind=st.sampled_from(["good", "good", "busy", "error", "broken", "alien"]),
    )
    def answer(self, pick: object, kind: str) -> None:
        index = pick.randrange(len(self.on_wire))  # type: ignore[attr-defined]  # a Random
        request = self.on_wire.pop(index)
        document = codec.encode_document({})
        if isinstance(request, Hello):
            document = codec.encode_document({"v": VERSION, "version": "1", "instance": str(self.instance)})
        match kind:
            case "good":
                frames = [codec.encode_answer(Document(id=request.id)), document]
            case "busy":
                frames = [
                    codec.encode_answer(ErrorAnswer(id=request.id, code="busy", message="full", retry_after_ms=100))
                ]
            case "error":
                frames = [
                    codec.encode_answer(
                        ErrorAnswer(id=request.id, code="internal", message="text 3", details={"index": 3})
                    )
                ]
            case "broken":
                frames = [codec.encode_document({"id": request.id, "ok": 7})]
            case _:
                frames = [codec.encode_answer(Document(id=2**62)), document]
        self.do(self.core.received(frames, self.now))

    @precondition(lambda self: not self.to_do)
    @rule()
    def restart(self) -> None:
        self.instance += 1
        self.on_wire = [request for request in self.on_wire if isinstance(request, Hello)]

    @precondition(lambda self: not self.to_do)
    @rule(seconds=st.floats(0.01, 4))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.core.tick(self.now))

    @precondition(lambda self: not self.to_do and self.calls)
    @rule(pick=st.randoms(use_true_random=False))
    def abandon(self, pick: object) -> None:
        call = pick.choice(self.calls)  # type: ignore[attr-defined]  # a Random
        self.calls.remove(call)
        self.do(self.core.abandon(call))

    @rule()
    def take(self) -> None:
        for call in list(self.calls):
            try:
                while (answered := call.take()) is not None:
                    self.taken[call].append(answered.piece.number)
            except EmbedDaemonError as error:
                assert str(error)  # noqa: PT017 - not raising is as good
                self.calls.remove(call)
                if not self.to_do:
                    self.do(self.core.abandon(call))

    @invariant()
    def answers_are_taken_in_order(self) -> None:
        for taken in self.taken.values():
            assert taken == list(range(len(taken)))

    @invariant()
    def what_waits_has_a_time_to_wake_up(self) -> None:
        if not self.to_do and any(call._in_flight for call in self.calls):
            assert self.core.wakeup() is not None

    def teardown(self) -> None:
        """A daemon that says nothing any more: time alone ends every call."""
        for _ in range(200):
            while self.to_do:
                self.settle(listens=False)
            self.take()
            wakeup = self.core.wakeup()
            if wakeup is None:
                break
            self.now = max(self.now, wakeup) + 0.001
            self.do(self.core.tick(self.now))
        assert not any(call._in_flight for call in self.calls), "a call did not end"


TestAnyDaemon = AnyDaemon.TestCase
TestAnyDaemon.settings = settings(max_examples=100, stateful_step_count=40)
