"""A stand-in for the supervisor: drives a fork server, templates and workers over their real sockets.

Waiting is for a message or for the death of a pid; both have a deadline that scales with the machine.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import zmq

from embeddaemon.models.order import LoadOrder
from embeddaemon.protocol import bodies, codec, control, link
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import Answer, Embed, ErrorAnswer, Tokenize, Vectors, Waiting
from tests.support.stub_engine import stub_order
from tests.support.waiting import seconds, wait_until

HERE = Path(__file__).resolve().parent
STUB_FORK_SERVER = (sys.executable, str(HERE / "stub_fork_server.py"))
STUB_SPAWNED_WORKER = (sys.executable, str(HERE / "stub_spawned_worker.py"))
TORCH_FORK_SERVER = (sys.executable, "-m", "embeddaemon.workers.preload")
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""What the supervisor sets before it starts a fork server."""

Control = TypeVar("Control", bound=control.FromForker)
FromWorker = TypeVar("FromWorker", bound=link.FromWorker)


def is_dead(pid: int) -> bool:
    """Gone, or a zombie that whoever adopted it has not waited for."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


def wait_for_death(pids: Sequence[int], within_seconds: float = 1.0) -> None:
    wait_until(
        lambda: all(is_dead(pid) for pid in pids),
        within_seconds,
        describe=lambda: f"alive: {[pid for pid in pids if not is_dead(pid)]}",
    )


class ControlSocket:
    """The supervisor's end of a fork server's or template's control socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def send(self, command: control.ToForker, passed: socket.socket | None = None) -> None:
        descriptors = [] if passed is None else [passed.fileno()]
        socket.send_fds(self.connection, [control.encode(command)], descriptors)

    def receive(self, kind: type[Control], within_seconds: float = 10.0) -> Control:
        """The next message, which must be of that kind."""
        message = self.receive_any(within_seconds)
        assert isinstance(message, kind), message
        return message

    def receive_any(self, within_seconds: float = 10.0) -> object:
        """The next message; None at end-of-file."""
        ready, _, _ = select.select([self.connection], [], [], seconds(within_seconds))
        assert ready, f"no message on the control socket within {within_seconds} s"
        packet = self.connection.recv(control.MAX_PACKET_BYTES)
        return control.decode(packet) if packet else None

    def close(self) -> None:
        self.connection.close()


@dataclass(frozen=True, slots=True)
class Result:
    """A request's end, the link's half decoded and the client's."""

    link: link.Result
    answer: Answer
    frames: list[bytes]

    @property
    def vectors(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        assert isinstance(self.answer, Vectors), self.answer
        return np.frombuffer(self.frames[0], dtype="<f4").reshape(self.answer.count, self.answer.dim)

    @property
    def error(self) -> ErrorAnswer:
        assert isinstance(self.answer, ErrorAnswer), self.answer
        return self.answer


@dataclass(frozen=True, slots=True)
class Request:
    """One item of a dispatch, as a client would have sent it."""

    header: bytes
    body: bytes
    model: str = "stub"
    expires_in_ms: int = 30_000


def embed(texts: Sequence[str], **options: object) -> Request:
    """A client's embed request; ``id`` is 77 unless given."""
    request = Embed(**{"id": 77, **options})  # type: ignore[arg-type]  # options as the test gives them
    return Request(codec.encode_request(request), bodies.encode_texts(texts, Limits()))


def tokenize(texts: Sequence[str], **options: object) -> Request:
    request = Tokenize(**{"id": 77, **options})  # type: ignore[arg-type]  # options as the test gives them
    return Request(codec.encode_request(request), bodies.encode_texts(texts, Limits()))


class StandIn:
    """The supervisor's half of everything. A context manager: at its end nothing of it lives."""

    def __init__(self, folder: Path, command: Sequence[str] = STUB_FORK_SERVER) -> None:
        self._path = folder / "link"
        self.endpoint = f"ipc://{self._path}"
        self._command = command
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.router = self._context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.router.bind(self.endpoint)
        self._children = itertools.count(1)
        self._serials = itertools.count(1)
        self._sockets: list[ControlSocket] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self.heartbeats: list[link.Heartbeat] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stderr):
                if stream is not None:
                    stream.close()
        for one in self._sockets:
            one.close()
        self._context.destroy(0)
        self._path.unlink(missing_ok=True)

    def start_fork_server(
        self, environment: Mapping[str, str] | None = None, stderr: int | None = None, parent_pid: int | None = None
    ) -> tuple[ControlSocket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = str(parent_pid or os.getpid())
        process = subprocess.Popen(
            [*self._command, "--control-fd", str(theirs.fileno()), "--parent-pid", parent],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **ENVIRONMENT, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )
        theirs.close()
        self._processes.append(process)
        self._sockets.append(ControlSocket(ours))
        return self._sockets[-1], process

    def start_spawned_worker(
        self, command: control.ForkWorker, program: Sequence[str] = STUB_SPAWNED_WORKER
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*program, "--spawn", "--parent-pid", str(os.getpid())],
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.PIPE,
        )
        self._processes.append(process)
        packet = control.encode(command)
        assert process.stdin is not None
        process.stdin.write(len(packet).to_bytes(4, "big") + packet)
        process.stdin.flush()
        return process

    def fork_with_socket(
        self, server: ControlSocket, make: Callable[[int], control.ToForker]
    ) -> tuple[ControlSocket, control.Forked]:
        """Forks a child that gets a control socket of its own."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server.send(make(next(self._children)), theirs)
        theirs.close()
        self._sockets.append(ControlSocket(ours))
        return self._sockets[-1], server.receive(control.Forked)

    def fork_template(
        self, server: ControlSocket, order: LoadOrder | None = None
    ) -> tuple[ControlSocket, control.Forked]:
        order_map = (order or stub_order()).as_map()
        return self.fork_with_socket(server, lambda child: control.ForkTemplate(child, order_map))

    def worker_command(
        self, worker: int = 1, incarnation: int = 1, order: LoadOrder | None = None, heartbeat_seconds: float = 0.1
    ) -> control.ForkWorker:
        return control.ForkWorker(
            child=next(self._children),
            worker=worker,
            incarnation=incarnation,
            endpoint=self.endpoint,
            threads=1,
            heartbeat_seconds=heartbeat_seconds,
            order=None if order is None else order.as_map(),
        )

    def fork_worker(
        self, forker: ControlSocket, worker: int = 1, incarnation: int = 1, order: LoadOrder | None = None
    ) -> control.Forked:
        """From a template, or with an order from the fork server; waits until it is ready."""
        forker.send(self.worker_command(worker, incarnation, order))
        forked = forker.receive(control.Forked)
        ready = self.receive(link.Ready)
        assert (ready.worker, ready.incarnation, ready.pid) == (worker, incarnation, forked.pid)
        return forked

    def whole_tree(self, order: LoadOrder | None = None) -> Tree:
        """A fork server, its template, one worker."""
        server, process = self.start_fork_server()
        server.receive(control.ForkServerReady)
        template, forked = self.fork_template(server, order)
        template.receive(control.TemplateReady)
        return Tree(server, process.pid, template, forked, self.fork_worker(template))

    def dispatch(self, *requests: Request, worker: int = 1, incarnation: int = 1) -> list[int]:
        """Sends them together; gives their serials."""
        serials = [next(self._serials) for _ in requests]
        items = tuple(
            link.Item(serial, request.model, request.expires_in_ms, 5)
            for serial, request in zip(serials, requests, strict=True)
        )
        frames = [frame for request in requests for frame in (request.header, request.body)]
        header = link.encode_to_worker(link.Dispatch(incarnation, serials[0], items))
        self.router.send_multipart([link.routing_id(worker, incarnation), header, *frames])
        return serials

    def drain(self, worker: int = 1, incarnation: int = 1) -> None:
        header = link.encode_to_worker(link.Drain(incarnation))
        self.router.send_multipart([link.routing_id(worker, incarnation), header])

    def receive_frames(self, within_seconds: float = 10.0) -> tuple[link.FromWorker, list[bytes]]:
        """The next message that is no heartbeat; those are kept aside."""
        while True:
            assert self.router.poll(int(seconds(within_seconds) * 1000)), f"nothing on the link in {within_seconds} s"
            _, header, *frames = self.router.recv_multipart()
            message = link.decode_from_worker(header)
            if not isinstance(message, link.Heartbeat):
                return message, frames
            self.heartbeats.append(message)

    def receive(self, kind: type[FromWorker], within_seconds: float = 10.0) -> FromWorker:
        message, _ = self.receive_frames(within_seconds)
        assert isinstance(message, kind), message
        return message

    def receive_result(self, within_seconds: float = 10.0) -> Result:
        message, (header, *frames) = self.receive_frames(within_seconds)
        assert isinstance(message, link.Result), message
        answer = codec.decode_answer(header)
        assert not isinstance(answer, Waiting), "a worker answers, and nothing else"
        return Result(message, answer, frames)

    def ask(self, *requests: Request, worker: int = 1) -> list[Result]:
        """Dispatches them together; their results, in the order asked."""
        serials = self.dispatch(*requests, worker=worker)
        results = {result.link.serial: result for result in (self.receive_result() for _ in serials)}
        return [results[serial] for serial in serials]

    def receive_heartbeat(self, within_seconds: float = 10.0) -> link.Heartbeat:
        assert self.router.poll(int(seconds(within_seconds) * 1000)), f"no heartbeat within {within_seconds} s"
        message = link.decode_from_worker(self.router.recv_multipart()[1])
        assert isinstance(message, link.Heartbeat), message
        return message


@dataclass(frozen=True, slots=True)
class Tree:
    """The processes of one model."""

    server: ControlSocket
    server_pid: int
    template: ControlSocket
    template_forked: control.Forked
    worker_forked: control.Forked

    @property
    def pids(self) -> list[int]:
        return [self.server_pid, self.template_forked.pid, self.worker_forked.pid]
