"""Damaged model folders, made by a seed, and what comes of each: a program that reads and loads many of them.

    python tests/support/folder_fuzz.py FOLDER FIRST COUNT GROWTH_BYTES

For each seed one line of JSON: ``{"seed", "change", "outcome"}``; the outcome is ``served``, or ``refused CODE``, and
anything else is a fault. The process itself may grow by so many bytes and no more.
"""

from __future__ import annotations

import json
import math
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a program: its own folder is on the path, the root is not

from embeddaemon.errors import EmbedDaemonError  # noqa: E402
from embeddaemon.models.folder import read_card  # noqa: E402
from embeddaemon.models.order import LoadOrder  # noqa: E402
from embeddaemon.models.spec import ModelSpec  # noqa: E402
from embeddaemon.protocol.limits import Limits  # noqa: E402
from embeddaemon.workers.exhaustion import is_out_of_memory  # noqa: E402
from embeddaemon.workers.loading import load, load_error  # noqa: E402
from embeddaemon.workers.program import EngineProgram, torch_program  # noqa: E402
from tests.support.checkpoints import TinyBert, save_weights, write_json  # noqa: E402

SECONDS_FOR_ONE = 20
_ODD: tuple[object, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**30, -(10**30), 1e308, math.inf, math.nan, 0.5),
    *("", "x", "\0", "\ud800", "../../etc/passwd", "a" * 100_000, [], {}, [[]], [None] * 1000, {"": {"": {}}}),
)


class Overdue(BaseException):
    """One folder took too long."""


def write_base(folder: Path, kind: int) -> None:
    """A good folder, one of several kinds."""
    match kind:
        case 0 | 1:
            TinyBert().write(folder)
        case 2:
            TinyBert(new_layout=True, prompts={"query": "query: "}, default_prompt="query").write(folder)
        case 3:
            TinyBert(tokenizer_json=False, pooling=None).write(folder)
        case 4:
            TinyBert(dtype="float16", old_names=True, prefix="bert.").write(folder)
        case _:
            shard(TinyBert().write(folder))


def shard(folder: Path) -> None:
    """The weights in two files with an index."""
    tensors = sorted(TinyBert().tensors().items())
    half = len(tensors) // 2
    parts = {"model-1-of-2.safetensors": tensors[:half], "model-2-of-2.safetensors": tensors[half:]}
    for name, part in parts.items():
        save_weights(folder / name, dict(part))
    (folder / "model.safetensors").unlink()
    weight_map = {tensor: name for name, part in parts.items() for tensor, _ in part}
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})


def damage(folder: Path, chance: random.Random) -> str:
    """Change something, and say what."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = chance.choice(files)
    changes: list[Callable[[Path, random.Random], str]] = [flip, cut, extend, remove, swap, nest]
    if path.suffix == ".json":
        changes += [edit_json] * 12
    if path.suffix == ".safetensors":
        changes += [edit_header] * 8 + [spoil_weights] * 3
    return f"{path.relative_to(folder)}: {chance.choice(changes)(path, chance)}"


def flip(path: Path, chance: random.Random) -> str:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 3, 20])):
        if content:
            content[chance.randrange(min(len(content), chance.choice([64, 4096, 10**9])))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return "bits flipped"


def cut(path: Path, chance: random.Random) -> str:
    content = path.read_bytes()
    path.write_bytes(content[: chance.choice([0, 1, 8, chance.randrange(len(content) + 1), max(0, len(content) - 1)])])
    return "cut"


def extend(path: Path, chance: random.Random) -> str:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.choice([1, 7, 4096])))
    return "extended"


def remove(path: Path, _chance: random.Random) -> str:
    path.unlink()
    return "removed"


def swap(path: Path, chance: random.Random) -> str:
    other = chance.choice(sorted(each for each in path.parent.rglob("*") if each.is_file()))
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)
    return f"swapped with {other.name}"


def nest(path: Path, chance: random.Random) -> str:
    depth = chance.choice([100, 5000, 200_000])
    path.write_bytes(chance.choice([b'{"a":', b"["]) * depth)
    return f"nested {depth} deep"


def edit_json(path: Path, chance: random.Random) -> str:
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # damaged before
        return flip(path, chance)
    said = edit_value(values, chance)
    path.write_text(json.dumps(values), encoding="utf-8", errors="surrogatepass")
    return said


def edit_value(values: Any, chance: random.Random) -> str:
    """Somewhere in it, something else."""
    keys = list(values) if isinstance(values, dict) else list(range(len(values))) if isinstance(values, list) else []
    if not keys:
        return "nothing to edit"
    key = chance.choice(keys)
    if isinstance(values[key], dict | list) and values[key] and chance.random() < 0.8:
        return f"{key} / {edit_value(values[key], chance)}"
    if chance.random() < 0.15:
        del values[key]
        return f"{key} gone"
    odd = chance.choice(_ODD)
    values[key] = odd
    return f"{key} = {str(odd)[:30]!r}"


def edit_header(path: Path, chance: random.Random) -> str:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + length])
    except (ValueError, RecursionError):  # damaged before
        return flip(path, chance)
    said = edit_value(header, chance)
    raw = json.dumps(header).encode(errors="surrogatepass")
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + content[8 + length :])
    return f"header: {said}"


def spoil_weights(path: Path, chance: random.Random) -> str:
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    size = max(0, len(content) - start) // 4 * 4
    pattern = chance.choice([b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", bytes(4), b"\1\0\0\0"])
    begin = start + chance.randrange(max(1, size // 4)) * 4
    end = min(len(content), begin + chance.choice([4, 128, 10**9]))
    content[begin:end] = (pattern * (len(content) // 4))[: end - begin]
    path.write_bytes(content)
    return f"weights {pattern.hex()}"


def outcome_of(folder: Path, program: EngineProgram) -> str:
    """What the supervisor and then a template make of a folder."""
    spec = ModelSpec(name="fuzzed", source=f"path:{folder}")
    try:
        card = read_card(spec, folder)
    except EmbedDaemonError as error:
        return f"refused {error.code}"
    try:
        load(program, LoadOrder(card=card, device="cpu", precision="float32", token_budget=512, limits=Limits()))
    except Exception as error:  # noqa: BLE001 - as a template does it
        if is_out_of_memory(error):
            return f"FAULT memory: {error!s:.200}"
        return f"refused {load_error('the model', error).code}"
    return "served"


def limit_growth(growth_bytes: int) -> None:
    """From now on this process may take so much more memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    held = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (held + growth_bytes, held + growth_bytes))


def main(folder: Path, first: int, count: int, growth_bytes: int) -> None:
    program = torch_program()
    program.preload()
    program.use_one_thread()
    good = folder / "good"
    assert outcome_of(TinyBert().write(good), program) == "served"
    limit_growth(growth_bytes)  # what the first load takes for good is not the fault of a folder

    def overdue(_number: int, _frame: object) -> None:
        raise Overdue

    signal.signal(signal.SIGALRM, overdue)
    for seed in range(first, first + count):
        chance = random.Random(seed)
        place = folder / str(seed)
        write_base(place, chance.randrange(6))
        change = "; ".join(damage(place, chance) for _ in range(chance.choice([1, 1, 1, 2])))
        signal.alarm(SECONDS_FOR_ONE)
        try:
            outcome = outcome_of(place, program)
        except BaseException as error:  # noqa: BLE001 - a panic of a library, or overdue
            outcome = f"FAULT {type(error).__name__}: {error!s:.300}"
        signal.alarm(0)
        shutil.rmtree(place)
        sys.stdout.write(json.dumps({"seed": seed, "change": change, "outcome": outcome}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
