"""The Helm chart as Kubernetes would get it, without ``helm``: the part of Go's templates that our chart uses.

Actions ``if``, ``else``, ``end``, ``define``, comments and pipelines, over the functions below. What it does not know
raises: then the chart uses more than this file reads, and one of them must change.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_ACTION = re.compile(r"\{\{(?P<left>- )?\s*(?P<text>/\*.*?\*/|.*?)\s*(?P<right> -)?\}\}", re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s|]+|\|')


@dataclass
class Node:
    """Text, a pipeline, or a block with its branches."""

    kind: str
    text: str = ""
    body: list[Node] = field(default_factory=list)
    otherwise: list[Node] = field(default_factory=list)


class Chart:
    """A chart's folder; ``render`` gives its manifests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = yaml.safe_load((folder / "Chart.yaml").read_text())
        self.values: dict[str, Any] = yaml.safe_load((folder / "values.yaml").read_text())
        self._defined: dict[str, list[Node]] = {}
        self._files = {
            str(path.relative_to(folder)): self._parsed(path)
            for path in sorted((folder / "templates").rglob("*"))
            if path.is_file()
        }

    def render(self, **values: Any) -> dict[str, str]:
        """Each template by its file's name, with ``values`` in place of the chart's own of the same name."""
        scope = self.scope(**values)
        return {name: self._text(nodes, scope) for name, nodes in self._files.items() if not name.endswith(".tpl")}

    def include(self, name: str, **values: Any) -> str:
        """A named template, as a chart above this one gets it."""
        return self._text(self._defined[name], self.scope(**values))

    def scope(self, **values: Any) -> dict[str, Any]:
        """What ``.`` is."""
        return {
            "Values": {**self.values, **values},
            "Chart": {"Name": self.about["name"], "Version": self.about["version"]}
            | {"AppVersion": self.about["appVersion"]},
            "Release": {"Name": "test", "Namespace": "default", "Service": "Helm"},
        }

    def _parsed(self, path: Path) -> list[Node]:
        nodes, ended_by = _parse(_pieces(path.read_text()))
        assert ended_by == "", f"{path.name}: {ended_by} without a beginning"
        for node in nodes:
            if node.kind == "define":
                self._defined[json.loads(node.text)] = node.body
        return [node for node in nodes if node.kind != "define"]

    def _text(self, nodes: list[Node], scope: Mapping[str, Any]) -> str:
        parts = []
        for node in nodes:
            if node.kind == "text":
                parts.append(node.text)
            elif node.kind == "if":
                parts.append(self._text(node.body if self._value(node.text, scope) else node.otherwise, scope))
            else:
                assert node.kind == "value", node
                parts.append(_as_text(self._value(node.text, scope)))
        return "".join(parts)

    def _value(self, pipeline: str, scope: Mapping[str, Any]) -> Any:
        functions = _FUNCTIONS | {"include": lambda name, inner: self._text(self._defined[name], inner)}
        stages: list[list[str]] = [[]]
        for word in _WORD.findall(pipeline):
            if word == "|":
                stages.append([])
            else:
                stages[-1].append(word)
        given: list[Any] = []
        for name, *words in stages:
            if name in functions:
                given = [functions[name](*(_operand(word, scope) for word in words), *given)]
            else:
                assert not words, f"{name}: no function that this renderer knows"
                assert not given, f"{name}: no function that this renderer knows"
                given = [_operand(name, scope)]
        return given[0]


def _pieces(text: str) -> Iterator[Node]:
    """Text and actions in turn; a dash takes the white space beside it."""
    end, is_trimmed = 0, False
    for match in _ACTION.finditer(text):
        before = text[end : match.start()]
        before = before.lstrip() if is_trimmed else before
        yield Node("text", before.rstrip() if match["left"] else before)
        if not match["text"].startswith("/*"):
            yield Node("action", match["text"])
        end, is_trimmed = match.end(), bool(match["right"])
    rest = text[end:]
    assert "{{" not in rest, rest
    assert "}}" not in rest, rest
    yield Node("text", rest.lstrip() if is_trimmed else rest)


def _parse(pieces: Iterator[Node]) -> tuple[list[Node], str]:
    """Nodes up to the action that ends them, and that action: "end", "else", or "" at the end of the file."""
    nodes: list[Node] = []
    for piece in pieces:
        word, _, rest = piece.text.partition(" ")
        if piece.kind == "text":
            nodes.append(piece)
        elif piece.text in {"end", "else"}:
            return nodes, piece.text
        elif word in {"if", "define"}:
            body, ended_by = _parse(pieces)
            otherwise: list[Node] = []
            if ended_by == "else":
                otherwise, ended_by = _parse(pieces)
            assert ended_by == "end", f"{piece.text}: no end"
            nodes.append(Node(word, rest, body, otherwise))
        else:
            nodes.append(Node("value", piece.text))
    return nodes, ""


def _operand(word: str, scope: Mapping[str, Any]) -> Any:
    if word == ".":
        return scope
    if word.startswith('"'):
        return json.loads(word)
    if word.isdecimal():
        return int(word)
    assert word.startswith("."), f"{word}: no value that this renderer knows"
    value: Any = scope
    for name in word[1:].split("."):
        value = value[name]  # a value that values.yaml does not have is a mistake, also where Helm sees none
    return value


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _to_yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, default_flow_style=False)).rstrip("\n")


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "default": lambda other, value: value or other,
    "indent": lambda count, text: "\n".join(" " * count + line for line in text.split("\n")),
    "printf": lambda form, *values: form % values,
    "quote": lambda value: json.dumps(_as_text(value)),
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "toYaml": _to_yaml,
    "trimSuffix": lambda suffix, text: text.removesuffix(suffix),
    "trunc": lambda count, text: text[:count],
}
