"""Tells a story to the supervisor's core: a clock moved by hand, a world of processes, what clients were answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from embeddaemon.config.changes import compare
from embeddaemon.config.settings import Settings
from embeddaemon.errors import EmbedDaemonError
from embeddaemon.governor.budget import MIB, Budget
from embeddaemon.governor.core import FORK_SERVER, Governor
from embeddaemon.governor.samples import Limit, MemorySample, Observation, Stall
from embeddaemon.models.spec import ModelSpec, WorkerBounds
from embeddaemon.protocol import codec, link
from embeddaemon.protocol.messages import (
    Cancel,
    Document,
    Embed,
    ErrorAnswer,
    Health,
    Lane,
    Load,
    Request,
    Unload,
    Waiting,
)
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.connections.authorisation import Access
from embeddaemon.supervisor.core import Supervisor
from embeddaemon.supervisor.events import (
    CardFailed,
    CardRead,
    ClientGone,
    DrainRequested,
    Event,
    FilesSeen,
    KernelKilled,
    RequestReceived,
    SampleTaken,
    SettingsRead,
    TimePassed,
)
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.requests.cache import CACHE
from embeddaemon.supervisor.state import Machine, State
from tests.support.supervisor_world import FIRST_MARKS, KILLED, Life, Process, World, card_read

CLIENT = b"client"
LIMIT = Limit(4096 * MIB, "the test's machine")
MACHINE = Machine(
    cores=4, has_bfloat16=False, device="cpu", instance="test", version="0", pid=1, started_at=0.0
)  # fmt: skip


def spec(
    name: str = "mini", *, workers: tuple[int, int] = (1, 1), estimate: int = 300 * MIB, **fields: object
) -> ModelSpec:
    bounds = WorkerBounds(min=workers[0], max=workers[1])
    base = ModelSpec(name=name, source=f"path:/models/{name}", workers=bounds, estimate=estimate)
    return replace(base, **fields)  # type: ignore[arg-type]  # by name, as ModelSpec has them


def settings_for(*models: ModelSpec, **fields: object) -> Settings:
    base = Settings(endpoint="ipc:///tmp/none", models=models, default_model=models[0].name)
    return replace(base, **fields)  # type: ignore[arg-type]  # by name, as Settings has them


class Story:
    """One life of a supervisor. Time stands still until the story moves it."""

    def __init__(
        self,
        *models: ModelSpec,
        budget_bytes: int = 2048 * MIB,
        reserve_bytes: int = 0,
        card_bytes: int = 0,
        random: Callable[[], float] = lambda: 0.5,
        **fields: object,
    ) -> None:
        settings = settings_for(*(models or (spec(),)), **fields)
        self.budget = Budget("ram", budget_bytes, reserve_bytes, LIMIT)
        governor = Governor(
            self.budget,
            *([Budget("cuda:0", card_bytes, 0, Limit(card_bytes, "the test's card"))] if card_bytes else []),
            permanent=frozenset({FORK_SERVER, CACHE}),
            minimum_residence_seconds=settings.min_residence_seconds,
        )
        self.supervisor = Supervisor(settings, MACHINE, governor, random)
        self.governor = governor
        self.world = World()
        self.now = 100.0
        self.free_bytes = LIMIT.bytes
        self.is_blind = False
        """Nobody can look at the machine."""
        self.stall: tuple[float, float, bool] | None = None
        """Percent of some and of full, and whether it is our own."""
        self.commands: list[do.Command] = []
        self.dispatched: list[tuple[link.Dispatch, int]] = []
        """Each with the most bytes that its model's dispatches may have at that moment."""
        self.answers: dict[tuple[bytes, int], list[do.Reply | do.Forward | do.Recall]] = {}
        self.documents = 0
        """Sent, whether or not anybody was there."""
        self.health_documents = 0
        """Those of them that say who is well."""
        self.gone: set[bytes] = set()
        """Clients to whom nothing can be sent any more."""
        self.signs_of_life: list[do.SendWaiting] = []
        self.card_errors: dict[str, EmbedDaemonError] = {}
        self.marks: dict[str, str] = {}
        """Of the files of a model as they lie there, where they are not the first ones."""
        self.looks: list[do.LookAtFiles] = []
        """That nobody answered yet, while ``is_hanging``."""
        self.is_hanging = False
        self.exit_code: int | None = None
        self._ids = 0
        for each in settings.models:
            if each.source.startswith("path:"):
                self.supervisor.learn_card(card_read(each.name))
        self._execute(self.supervisor.start(self.now))

    @property
    def state(self) -> State:
        return self.supervisor._state

    def model(self, name: str = "mini") -> ModelState:
        return self.state.models[name]

    def tell(self, event: Event) -> None:
        """One event to the core, and everything that follows at once."""
        self._execute(self.supervisor.handle(event, self.now))

    def _execute(self, commands: list[do.Command]) -> None:  # noqa: C901 - one case per command
        self.commands.extend(commands)
        for command in commands:
            self._count_documents(command)
            match command:
                case do.Reply() | do.Forward() | do.Recall() | do.SendWaiting() if command.client in self.gone:
                    self.tell(ClientGone(command.client))
                case do.SendWaiting():
                    self.signs_of_life.append(command)
                case do.Reply():
                    self.answers.setdefault((command.client, command.answer.id), []).append(command)
                case do.Recall():
                    self.answers.setdefault((command.client, command.answer.id), []).append(command)
                case do.Forward():
                    self.answers.setdefault(self._forwarded_to(command), []).append(command)
                case do.TakeSample():
                    self._look()
                case do.ReadCard():
                    self._read(command)
                case do.LookAtFiles() if self.is_hanging:
                    self.looks.append(command)
                case do.LookAtFiles(model=name):
                    self.tell(FilesSeen(name, self.marks_of(name)))
                case do.Exit():
                    self.exit_code = command.code
                case do.SendDispatch(dispatch=dispatch):
                    model = self.state.models[dispatch.items[0].model]
                    self.dispatched.append((dispatch, model.pace.dispatch_bytes))
                    self.world.obey(command)
                case _:
                    for event in self.world.obey(command):
                        self.tell(event)

    def _count_documents(self, command: do.Command) -> None:
        if isinstance(command, do.Reply) and isinstance(command.answer, Document):
            self.documents += 1
            self.health_documents += "live" in (command.document or {})

    def _read(self, command: do.ReadCard) -> None:
        name, is_successor = command.spec.name, command.is_successor
        if (error := self.card_errors.get(name)) is not None:
            self.tell(CardFailed(name, error, is_successor))
        else:
            read = card_read(name, marks=self.marks_of(name))
            self.tell(replace(read, is_successor=is_successor))

    def configure(self, *models: ModelSpec, asker: tuple[bytes, int] | None = None, **fields: object) -> None:
        """The files say something else, and are read again."""
        settings = self.state.settings
        new = replace(settings, models=models, default_model=models[0].name)
        changes = compare(settings, replace(new, **fields))  # type: ignore[arg-type]  # by name, as Settings has them
        cards: dict[str, CardRead | CardFailed] = {}
        for each in changes.to_be_read:
            if (error := self.card_errors.get(each.name)) is not None:
                cards[each.name] = CardFailed(each.name, error)
            elif each.source.startswith("path:"):
                cards[each.name] = card_read(each.name, marks=self.marks_of(each.name))
        self.tell(SettingsRead(changes, cards, ("/etc/e.toml",), Access(owner=0), asker))

    def marks_of(self, name: str) -> str:
        return self.marks.get(name, FIRST_MARKS)

    def _forwarded_to(self, command: do.Forward) -> tuple[bytes, int]:
        key = command.frames[0]
        if isinstance(key, bytes):
            answer = codec.decode_answer(key)
            assert not isinstance(answer, Waiting)
            return command.client, answer.id
        assert isinstance(key, tuple)
        assert key[0] == command.client, "an answer for another client"
        return key

    # What clients do.

    def ask(
        self,
        model: str = "mini",
        *,
        lane: Lane = Lane.INTERACTIVE,
        deadline_ms: int | None = None,
        body_bytes: int = 100,
        client: bytes = CLIENT,
        task: str | None = None,
        text: str = "",
    ) -> int:
        """An embed request; gives its id. Without ``text`` its text is like no other."""
        request = Embed(id=self._next_id(), model=model, lane=lane, deadline_ms=deadline_ms, task=task)
        return self._send(request, body_bytes, client, text=text)

    def cancel(self, *ids: int, client: bytes = CLIENT) -> int:
        """Withdraw requests; gives the id of the ``cancel`` itself."""
        return self._send(Cancel(id=self._next_id(), ids=ids), client=client)

    def leave(self, client: bytes = CLIENT) -> None:
        """The client is gone; nobody knows yet."""
        self.gone.add(client)

    def load(
        self, model: str = "mini", *, deadline_ms: int | None = None, client: bytes = CLIENT, force: bool = False
    ) -> int:
        return self._send(Load(id=self._next_id(), model=model, deadline_ms=deadline_ms, force=force), client=client)

    def unload(self, model: str = "mini", *, deadline_ms: int | None = None, client: bytes = CLIENT) -> int:
        return self._send(Unload(id=self._next_id(), model=model, deadline_ms=deadline_ms), client=client)

    def health(self, model: str | None, *, deadline_ms: int, deep: bool, wake: bool, client: bytes = CLIENT) -> int:
        request = Health(id=self._next_id(), model=model, deep=deep, wake=wake, deadline_ms=deadline_ms)
        return self._send(request, client=client)

    def send(self, request: Request, *, is_admin: bool = True) -> int:
        return self._send(request, is_admin=is_admin)

    def _send(
        self,
        request: Request,
        body_bytes: int = 0,
        client: bytes = CLIENT,
        *,
        is_admin: bool = True,
        text: str = "",
    ) -> int:
        self.tell(RequestReceived(client, request, (client, request.id), text.encode(), body_bytes, is_admin))
        return request.id

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids

    def stop(self) -> None:
        self.tell(DrainRequested("SIGTERM"))

    def outcome(self, id_: int, client: bytes = CLIENT) -> str:
        """How a request ended: ``ok``, an error's code, or ``open``."""
        answers = self.answers.get((client, id_), [])
        assert len(answers) <= 1, f"answered {len(answers)} times"
        if not answers:
            return "open"
        (answered,) = answers
        answer = answered.answer if isinstance(answered, do.Reply) else None
        if isinstance(answered, do.Forward) and isinstance(answered.frames[0], bytes):
            decoded = codec.decode_answer(answered.frames[0])
            return decoded.code if isinstance(decoded, ErrorAnswer) else "ok"
        return answer.code if isinstance(answer, ErrorAnswer) else "ok"

    def error(self, id_: int) -> ErrorAnswer:
        (reply,) = self.answers[CLIENT, id_]
        assert isinstance(reply, do.Reply)
        assert isinstance(reply.answer, ErrorAnswer)
        return reply.answer

    # What the world does.

    def run(self) -> None:
        """Everything that processes do by themselves, until nothing more happens. They do not answer."""
        while steps := self.world.steps():
            self.step(steps[0].what, steps[0].child)

    def step(self, what: str, child: int) -> None:
        """One step of the world."""
        (step,) = [each for each in self.world.steps() if (each.what, each.child) == (what, child)]
        for event in step.run():
            self.tell(event)

    def run_until_ordered(self, kind: ChildKind) -> Process:
        """Until a process of this kind is ordered or comes; it does nothing yet."""
        while True:
            coming = [each for each in self.living(kind) if each.life is not Life.READY]
            if coming:
                return coming[-1]
            steps = self.world.steps()
            assert steps, f"no {kind.value} was started"
            self.step(steps[0].what, steps[0].child)

    def run_until_told(self) -> None:
        """Until everything that happened was told, and every death reported; nobody becomes ready meanwhile."""
        while dead := [step for step in self.world.steps() if step.what in ("reap", "control")]:
            self.step(dead[0].what, dead[0].child)

    def living(self, kind: ChildKind) -> list[Process]:
        return [
            each
            for each in self.world.processes.values()
            if each.kind is kind and (each.is_alive or each.life is Life.ORDERED)
        ]

    def one(self, kind: ChildKind) -> Process:
        (process,) = self.living(kind)
        return process

    def kill(self, process: Process, exit_code: int = KILLED) -> None:
        """It dies; nobody knows yet."""
        self.world.die(process, exit_code)

    def fail_to_load(self, process: Process, error: EmbedDaemonError) -> None:
        """It comes, says why it cannot, and exits; nobody knows yet."""
        if process.life is Life.ORDERED:
            self.step("fork", process.child)
        self.world.fail_to_load(process, error)

    def answer(self, process: Process | None = None, *, code: str = "") -> None:
        """A worker answers all that it holds."""
        worker = process or self.one(ChildKind.WORKER)
        while worker.held:
            self.answer_one(worker, code=code)
        self.deliver(worker)

    def answer_one(self, worker: Process, *, code: str = "") -> None:
        self.world.answer(worker, code)

    def deliver(self, worker: Process) -> None:
        """What a worker wrote on the link arrives."""
        while worker.link:
            self.step("link", worker.child)

    def answer_everything(self) -> None:
        """Processes run and workers answer until nothing is held."""
        self.run()
        while busy := [each for each in self.living(ChildKind.WORKER) if each.held]:
            self.answer(busy[0])
            self.run()

    def pass_time(self, seconds: float) -> None:
        """Time goes on, and the core is told whenever it wanted to be. Workers send their heartbeats."""
        until = self.now + seconds
        while (due := self.supervisor.next_due()) is not None and due <= until and self.exit_code is None:
            self.now = max(self.now, due)
            self.beat()
            self.tell(TimePassed())
        self.now = until
        self.beat()

    def beat(self) -> None:
        for worker in self.living(ChildKind.WORKER):
            if worker.life is Life.READY and not worker.link and not worker.is_mute:
                self.world.beat(worker)
                self.deliver(worker)

    def grow(self, worker: Process, count: int, *, is_kept: bool) -> None:
        """A worker takes more memory; the kernel ends it when that passes its hard limit."""
        worker.private_bytes += count
        worker.kept_bytes += count if is_kept else 0
        if worker.most_bytes is not None and worker.private_bytes > worker.most_bytes:
            self.tell(KernelKilled(worker.child, by_hard_limit=True))
            self.kill(worker)

    def _look(self) -> None:
        if self.is_blind:
            return
        sample = MemorySample(self.now, self.free_bytes, LIMIT)
        stall = None if self.stall is None else Stall(self.now, *self.stall)
        self.tell(SampleTaken(Observation((sample,), stall)))

    def leased(self) -> dict[str, int]:
        """Bytes by holder."""
        return {lease.holder: lease.bytes for lease in self.governor.snapshot(self.now).leases}

    def logged(self, event: str) -> list[Mapping[str, object]]:
        """The fields of every line about an event."""
        return [line.fields for line in self.commands if isinstance(line, do.Log) and line.event == event]

    def count(self, kind: type[do.Command]) -> int:
        return sum(isinstance(command, kind) for command in self.commands)
