"""The decider of one connection: ids, deadlines, matching, HELLO, when to ping, when to connect and send again.

``(event, now) -> actions``; no clock and no socket in here. A shell (sync.py, aio.py, through _wire.py) executes the
actions, reports what came of them, and calls ``tick`` at ``wakeup()``. What is in flight is kept in _flights.py; how
many pieces of a call that may be is decided in _window.py.

The daemon may be restarted at any time. Embedding twice gives the same vectors, so every piece without an answer is
simply sent again, under a new id, to whoever answers HELLO next. libzmq connects again by itself and says nothing
about what was lost: therefore silence is answered by a ping, and another ``instance`` in its answer means that
everything in flight is gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from embeddaemon.client import _faults as faults
from embeddaemon.client._actions import ALLOWED_PHASES, Action, Close, Open, Patience, Phase, Probe, Send, Wake
from embeddaemon.client._flights import Flight, Flights
from embeddaemon.client._window import Answered, Call, Ended, Piece
from embeddaemon.client.results import ServerInfo
from embeddaemon.errors import EmbedDaemonError, ProtocolError
from embeddaemon.protocol import codec
from embeddaemon.protocol.messages import Answer, Cancel, ErrorAnswer, Hello, Waiting

_LONGEST_DEADLINE_MS = 7 * 24 * 3600 * 1000
_MOST_CANCELLED = 1024
"""Ids in one ``cancel``: what fits in a header."""
_RETRIED_CODES = ("busy", "draining")
"""Refused only for now: with a hint when to come back, the piece waits and is sent again while its deadline allows."""


class ClientCore:
    """Everything one connection knows. Not for two threads."""

    def __init__(self, endpoint: str, patience: Patience, random: Callable[[], float]) -> None:
        """``random`` gives numbers in [0, 1), for the jitter of retries."""
        self.server: ServerInfo | None = None
        """The daemon that last said HELLO."""
        self.phase = Phase.CLOSED
        self.strays = 0
        """Messages that belong to no request: late, malformed or foreign."""
        self._endpoint = endpoint
        self._patience = patience
        self._random = random
        self._flights = Flights(patience.late)
        self._hellos: set[int] = set()
        self._give_up_at = 0.0
        self._attempt_at = 0.0
        self._heard_at = -math.inf
        """When the daemon last gave a sign of life."""
        self._quiet_since = -math.inf
        """When it last did, or when it first had something to answer after that."""
        self._pinged_at = -math.inf
        self._why: str | None = None
        """What the daemon last said that our pieces wait for."""
        self._advice: str | None = None
        self._why_not_linked: str | None = None

    def submit(self, call: Call, piece: Piece, now: float) -> list[Action]:
        """Take a piece; its outcome will be delivered to the call, in any case."""
        flight = self._flights.add(call, piece, now)
        call.submitted()
        if flight.deadline <= now:
            return [self._end(flight, self._expired(flight, now))]
        match self.phase:
            case Phase.CLOSED:
                return self._connect(now, self._patience.connect)
            case Phase.READY if not self._flights.sent and now - self._heard_at > self._patience.idle:
                return [Probe()]
            case Phase.READY:
                return [self._send(flight, now)]
            case _:
                return []

    def abandon(self, call: Call) -> list[Action]:
        """Forget a call whose outcomes nobody wants any more, and say so. Answers still to come will be strays."""
        abandoned = [flight for flight in self._flights if flight.call is call]
        for flight in abandoned:
            self._forget(flight)
        if not self._flights and self.phase in {Phase.CONNECTING, Phase.GREETING}:
            return self._closed()
        return self._withdraw(abandoned)

    def opened(self, now: float) -> list[Action]:
        """A new socket is connected."""
        self._enter(Phase.GREETING)
        self._give_up_at = now + self._patience.hello
        return [self._ping(now)]

    def reachable(self, now: float) -> list[Action]:
        """Somebody listens at the endpoint."""
        if self.phase is not Phase.READY:
            return []
        if not self._flights.sent:
            self._heard_at = now
        return list(self._send_waiting(now))

    def unreachable(self, reason: str, now: float, advice: str | None = None) -> list[Action]:
        """Nobody listens at the endpoint; ``advice`` is what may help where something else than a daemon is missing."""
        self._advice = advice
        match self.phase:
            case Phase.READY:
                return self._reconnect(now)
            case Phase.GREETING:
                self._forget_sent()
                self._enter(Phase.CONNECTING)
                self._attempt_at = now + self._patience.attempt
                self._give_up_at = now + self._patience.reconnect
                return [Close()]
            case Phase.CONNECTING if now >= self._give_up_at:
                return self._fail_all(faults.nobody(self._endpoint, reason, advice))
            case Phase.CONNECTING:
                self._attempt_at = now + self._patience.attempt
                return []
            case Phase.CLOSED:
                return []

    def linked(self, why_not: str | None) -> None:
        """Whether there is a connection that could carry an answer; why not, else."""
        self._why_not_linked = why_not

    def refused(self, error: EmbedDaemonError) -> list[Action]:
        """The daemon does not want us: trying again would be refused again."""
        return [] if self.phase is Phase.CLOSED else self._fail_all(error)

    def received(self, frames: Sequence[bytes | memoryview], now: float) -> list[Action]:
        """A message arrived: header, then the frames behind it."""
        self._heard_at = self._quiet_since = now
        header, *behind = frames
        try:
            answer = codec.decode_answer(header)
        except ProtocolError as error:
            flight = self._flights.sent.get(codec.request_id(header))
            if flight is not None:
                return [self._end(flight, error)]
            self.strays += 1
            return []
        if isinstance(answer, Waiting):
            self._why = answer.why
            return []
        if answer.id in self._hellos or (answer.id == 0 and self.phase is Phase.GREETING):
            return self._greeted(answer, behind, now)
        flight = self._flights.sent.get(answer.id)
        if flight is None:
            self.strays += 1
            return []
        return self._answered(flight, answer, [memoryview(frame) for frame in behind], now)

    def wakeup(self) -> float | None:
        """When to call ``tick``, monotonic; None: only an event can change anything."""
        times = [self._flights.due]
        match self.phase:
            case Phase.CONNECTING:
                times.append(self._attempt_at)
            case Phase.GREETING:
                times += [self._give_up_at, self._pinged_at + self._patience.silence]
            case Phase.READY if self._flights.sent:
                times.append(max(self._quiet_since, self._pinged_at) + self._patience.silence)
            case _:
                pass
        earliest = min(times)
        return None if earliest == math.inf else earliest

    def tick(self, now: float) -> list[Action]:
        """Do what is due. Whatever has arrived must have been handed in before."""
        actions = list(self._do_due(now)) if now >= self._flights.due else []
        match self.phase:
            case Phase.CONNECTING if now >= self._attempt_at:
                actions.append(Open())
            case Phase.GREETING if now >= self._give_up_at:
                actions += self._fail_all(self._mute())
            case Phase.GREETING if now >= self._pinged_at + self._patience.silence:
                actions += [self._ping(now), Probe()]
            case Phase.READY if (
                self._flights.sent and now >= max(self._quiet_since, self._pinged_at) + self._patience.silence
            ):
                actions += [self._ping(now), Probe()]
            case _:
                pass
        return actions

    def _do_due(self, now: float) -> Iterator[Action]:
        late = self._flights.late(now)
        for flight in late:
            yield self._end(flight, self._expired(flight, now))
        yield from self._withdraw(late)
        if self.phase is Phase.READY:
            yield from self._send_waiting(now)
        self._flights.find_due(now)

    def _enter(self, phase: Phase) -> None:
        assert phase in ALLOWED_PHASES[self.phase], f"connection goes from {self.phase.value} to {phase.value}: bug"
        self.phase = phase

    def _connect(self, now: float, patience_seconds: float) -> list[Action]:
        self._enter(Phase.CONNECTING)
        self._give_up_at = now + patience_seconds
        self._attempt_at = now
        return [Open()]

    def _reconnect(self, now: float) -> list[Action]:
        """The daemon that held our pieces is gone: all of them are unsent again."""
        if not self._flights:
            return self._closed()
        patience = self._patience.reconnect if self._flights.sent else self._patience.connect
        self._forget_sent()
        return [Close(), *self._connect(now, patience)]

    def _forget_sent(self) -> None:
        self._flights.lose_sent()
        self._hellos.clear()
        self._why = None

    def _closed(self) -> list[Action]:
        self._forget_sent()
        self._enter(Phase.CLOSED)
        return [Close()]

    def _ping(self, now: float) -> Send:
        id_ = self._flights.new_id()
        self._hellos.add(id_)
        self._pinged_at = now
        return Send(codec.encode_request(Hello(id=id_)), codec.EMPTY_BODY)

    def _greeted(self, answer: Answer, behind: Sequence[bytes | memoryview], now: float) -> list[Action]:
        self._hellos.discard(answer.id)
        try:
            server = faults.server_of(answer, behind)
        except EmbedDaemonError as error:
            return self._fail_all(error)
        is_successor = self.server is not None and server.instance != self.server.instance
        self.server = server
        if self.phase is Phase.GREETING:
            self._enter(Phase.READY)
        elif is_successor:
            return self._reconnect(now)
        return list(self._send_waiting(now))

    def _send_waiting(self, now: float) -> Iterator[Action]:
        """Send what is not sent, in the order of submission."""
        for flight in self._flights.unsent(now):
            yield self._send(flight, now)

    def _send(self, flight: Flight, now: float) -> Send:
        if not self._flights.sent:
            self._quiet_since = now
        self._flights.send(flight)
        remaining_ms = min(math.ceil(min(flight.deadline - now, 1e6) * 1000), _LONGEST_DEADLINE_MS)
        request = replace(flight.piece.request, id=flight.id, deadline_ms=remaining_ms)
        return Send(codec.encode_request(request), flight.piece.body)

    def _answered(self, flight: Flight, answer: Answer, frames: list[memoryview], now: float) -> list[Action]:
        if not isinstance(answer, ErrorAnswer):
            self._forget(flight)
            flight.call.deliver(Answered(flight.piece, answer, frames, flight.submitted_at, now))
            return [Wake(flight.call)]
        if answer.code in _RETRIED_CODES and answer.retry_after_ms is not None:
            delay_seconds = answer.retry_after_ms / 1000 * (1 + self._random() / 2)
            if now + delay_seconds < flight.deadline:
                flight.call.window.refused()
                self._flights.retry(flight, now + delay_seconds)
                return []
        return [self._end(flight, faults.error_of(answer, flight.piece.offset))]

    def _end(self, flight: Flight, error: EmbedDaemonError) -> Wake:
        self._forget(flight)
        flight.call.deliver(Ended(flight.piece, error))
        return Wake(flight.call)

    def _forget(self, flight: Flight) -> None:
        self._flights.forget(flight)
        if not self._flights:
            self._why = None

    def _withdraw(self, flights: Sequence[Flight]) -> list[Action]:
        """Tell the daemon which of its requests nobody waits for. Best effort: what it answers is not waited for."""
        ids = tuple(flight.id for flight in flights if flight.id)
        if self.phase is not Phase.READY:
            return []
        return [self._cancel(ids[start : start + _MOST_CANCELLED]) for start in range(0, len(ids), _MOST_CANCELLED)]

    def _cancel(self, ids: tuple[int, ...]) -> Send:
        return Send(codec.encode_request(Cancel(id=self._flights.new_id(), ids=ids)), codec.EMPTY_BODY)

    def _fail_all(self, error: EmbedDaemonError) -> list[Action]:
        """Nothing in flight can be answered; the next call starts afresh."""
        ended = [
            self._end(flight, faults.renewed(error, error.message, details=error.details)) for flight in self._flights
        ]
        return [*self._closed(), *ended]

    def _why_alone(self) -> str | None:
        """What the daemon said of our waiting; None while it may be of another call's."""
        return self._why if len({id(flight.call) for flight in self._flights}) == 1 else None

    def _mute(self) -> EmbedDaemonError:
        if self._why_not_linked is not None:
            return faults.nobody(self._endpoint, self._why_not_linked)
        return faults.mute(self._endpoint)

    def _expired(self, flight: Flight, now: float) -> EmbedDaemonError:
        waited_seconds = max(flight.call.wait_seconds, 0.0)
        match self.phase:
            case Phase.CONNECTING:
                return faults.nobody(self._endpoint, f"nobody answered within {waited_seconds:.3g} s", self._advice)
            case Phase.GREETING:
                return self._mute()
            case _:
                quiet_seconds = max(now - max(self._quiet_since, flight.submitted_at), 0.0)
                return faults.expired(
                    self._endpoint, waited_seconds=waited_seconds, quiet_seconds=quiet_seconds, why=self._why_alone()
                )
