"""docs/protocol.md against the code: the ops, and every key of the maps that are answered."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import Request

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
MAPS = PAGE.split("\n## The maps\n")[1].split("\n## ")[0]
SUPERVISOR = ROOT / "embeddaemon" / "supervisor"
SOURCES = (
    *("documents", "memory/document", "sickness/health"),
    *("connections/clients", "connections/network", "connections/quotas"),
)
"""Where the maps are made, and no others."""
OF_ERRORS = {"code", "message", "cause", "details"}
OF_RELOAD = {"added", "removed", "replaced", "adjusted", "changed"}
"""Made in a file that makes other maps as well."""
OF_OTHERS = {"status", "task", "tcp_endpoint", "truncate_dim", "preload"}
"""Ops, options and settings that the maps are explained by."""


def keys_made() -> set[str]:
    """Those of every dictionary that is written out in the sources."""
    trees = [ast.parse((SUPERVISOR / f"{name}.py").read_text(encoding="utf-8")) for name in SOURCES]
    found = [key for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys]
    return {key.value for key in found if isinstance(key, ast.Constant) and isinstance(key.value, str)}


def words_of_the_code() -> set[str]:
    """Every text constant of the supervisor and the governor: the values that a key may have are among them."""
    files = [*SUPERVISOR.rglob("*.py"), *(ROOT / "governor").glob("*.py")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_key_of_a_map_is_documented() -> None:
    elsewhere = {field.name for field in fields(Limits)} | {"quota", "used"}  # in Limits; details of an error
    assert sorted(key for key in keys_made() - elsewhere if f"`{key}`" not in MAPS) == []


def test_every_key_that_is_documented_is_in_a_map() -> None:
    named = set(re.findall(r"`([a-z_]+)`", MAPS))
    levels = {"normal", "high", "critical"}  # of an enum, by its members' names
    assert sorted(named - keys_made() - words_of_the_code() - OF_ERRORS - OF_RELOAD - OF_OTHERS - levels) == []


def test_every_op_is_in_the_list_of_ops() -> None:
    (row,) = (line for line in PAGE.splitlines() if line.startswith("| `op` "))
    listed = re.findall(r"`(\w+)`", row.split("|")[3])
    assert sorted(listed) == sorted(kind.__name__.lower() for kind in get_args(Request))
