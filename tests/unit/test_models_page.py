"""docs/models.md against the code: every family and every published model, with what the table says of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embeddaemon.cli.console import count
from embeddaemon.governor.budget import format_bytes
from embeddaemon.governor.footprint import auto
from embeddaemon.governor.formula import Workload
from embeddaemon.models.body import FAMILIES, is_gated
from embeddaemon.models.published import Published
from embeddaemon.models.published_models import PUBLISHED
from embeddaemon.models.table import card_of
from embeddaemon.supervisor.memory.learning import weights_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")

SERVED = [entry for entry in PUBLISHED if entry.name != "jina-embeddings-v3"]
"""Not the original layout of Jina v3, which is refused: the page says so at its family."""

_EXPERTS = {"nomic-moe": 8}


def _memory(entry: Published, element_bytes: int) -> str:
    """Of a template and a worker with two threads, at rest."""
    workload = Workload(element_bytes=element_bytes, token_budget=8192, start_method="fork", threads=2)
    return format_bytes(auto(weights_of(card_of(entry)), workload).total_bytes)


def rows() -> dict[str, list[str]]:
    """By the first column of any table."""
    lines = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


@pytest.mark.parametrize("entry", SERVED, ids=lambda entry: entry.name)
def test_page_has_every_published_model_as_the_table_has_it(entry: Published) -> None:
    family, dimensions, most, pooling, tasks, size, memory, licence = rows()[f"{entry.organisations[0]}/{entry.name}"]
    assert family == entry.family
    assert dimensions.startswith(f"**{entry.dim}**")
    offered = {entry.dim, *entry.cut_dimensions, *entry.head_dimensions}
    assert {int(number) for number in re.findall(r"\d+", dimensions)} == offered
    assert int(most) == entry.max_tokens
    assert pooling == (entry.pooling.value if entry.pooling else "its folder says")
    assert re.findall(r"`([^`]+)`", tasks) == sorted(task for task, prompt in entry.prompts.items() if prompt)
    assert tasks.endswith("required") is entry.needs_prompt
    assert size == count(entry.parameters)
    assert memory == f"{_memory(entry, 2)}, {_memory(entry, 4)}"
    assert licence.strip("*") == entry.licence


def test_page_has_every_family_and_no_other() -> None:
    table = PAGE.partition("## Families")[2].partition("## ")[0]
    named = {name for line in table.splitlines() if line.startswith("| ") for name in line.split("|")[1].split(",")}
    assert {name.strip() for name in named} - {"family"} == set(FAMILIES)


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.name)
def test_parameters_follow_from_the_shape(entry: Published) -> None:
    """Within 3 %, without norms, positions and biases; NV-Embed's latent layers are beside its body."""
    shape = entry.shape
    head = shape.head_dim or shape.hidden // shape.attention_heads
    attention = 2 * shape.hidden * head * (shape.attention_heads + shape.key_value_heads)
    dense = shape.hidden * shape.intermediate * (3 if is_gated(entry.family) else 2)
    found = shape.layers * (attention + dense) + shape.vocabulary * shape.hidden
    if (experts := _EXPERTS.get(entry.family)) is not None:
        found += shape.layers // 2 * (experts - 1) * dense
    if entry.family == "nv-embed":
        found += 4096 * (32768 + 65536 + 32768 + 32768 + 16384)
    assert found == pytest.approx(entry.parameters, rel=0.03)
