"""What stands in deploy/: the documents, the containers in them, and the commands that those run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from embeddaemon.cli.app import cli

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/embeddaemon"
PROGRAM = "embeddaemon"

Document = dict[str, Any]


def documents(text: str) -> list[Document]:
    """Those of a YAML file, without empty ones."""
    return [each for each in yaml.safe_load_all(text) if each]


def pod_of(document: Document) -> Document:
    """The pod's spec, of a pod or of what makes pods."""
    spec: Document = document["spec"]
    return spec if document["kind"] == "Pod" else spec["template"]["spec"]


def containers(pod: Document) -> list[Document]:
    """All that run in it, first or later."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def is_daemon(container: Document) -> bool:
    """Whether it serves."""
    return bool(container.get("args", [""])[0] == "serve")


def pod_commands(pod: Document) -> Iterator[list[str]]:
    """What is asked of our program: arguments to the image's entry point, and probes."""
    for container in containers(pod):
        if "command" not in container:
            yield container["args"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                program, *arguments = container[probe]["exec"]["command"]
                assert program == PROGRAM
                yield arguments


def check_command(arguments: list[str]) -> None:
    """Parse it as the program would, without running it. Raises click's UsageError for what it does not know."""
    name, *rest = arguments
    context = cli.make_context(PROGRAM, [name])
    command = cli.get_command(context, name)
    assert command is not None, f"{PROGRAM} {name}: no such command"
    with command.make_context(name, rest, parent=context):
        pass


@dataclass(frozen=True, slots=True)
class Instruction:
    """One of a Dockerfile, in the stage that is numbered from 0."""

    name: str
    value: str
    stage: int

    @property
    def words(self) -> list[str]:
        """As a shell, or in the form that no shell reads, as JSON."""
        words = json.loads(self.value) if self.value.startswith("[") else shlex.split(self.value)
        return list(map(str, words))


def instructions(structure: list[Mapping[str, Any]]) -> list[Instruction]:
    """Of what dockerfile_parse read, without comments."""
    found: list[Instruction] = []
    stage = -1
    for each in structure:
        name = each["instruction"]
        stage += name == "FROM"
        if name != "COMMENT":
            found.append(Instruction(name, each["value"], stage))
    return found
