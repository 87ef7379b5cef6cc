"""The two symlinks, and what may stand in the source at all: what no linter we use can see."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "embeddaemon", ROOT / "governor", ROOT / "workers")

# The files that do I/O. Everything else in these folders decides, and takes the event and the time as arguments.
SHELLS: dict[str, set[str]] = {
    "embeddaemon/client": {"__init__", "_connection", "_source", "_target", "_wire", "aio", "local", "sync"},
    "embeddaemon/supervisor": {"execution", "loop", "reading"},
    "embeddaemon/supervisor/changes": {"configuration", "file_looks", "folder_reads"},
    "embeddaemon/supervisor/connections": {
        *("accepted", "clients", "connection", "descriptors", "door", "folder", "front", "listener", "network"),
        *("notes", "peers", "worker_link", "zap"),
    },
    "embeddaemon/supervisor/memory": {"budgets", "footprint_file", "hard_limits", "stalls", "worker_cgroups"},
    "embeddaemon/supervisor/processes": {"journals", "living", "process"},
    "embeddaemon/supervisor/requests": set(),
    "embeddaemon/supervisor/sickness": set(),
    "embeddaemon/supervisor/surroundings": {"machine", "notify", "parent", "service"},
    "governor": {"cgroups", "kernel_files", "nvml", "probes", "stalls"},
}
PURE_FILES = ("workers/packing.py",)
IMPURE_MODULES = {
    *("asyncio", "multiprocessing", "os", "random", "selectors", "signal", "socket", "subprocess", "threading", "time"),
    *("psutil", "torch", "zmq"),
}


@pytest.mark.parametrize("name", ["governor", "systemd", "workers"])
def test_folder_is_part_of_the_package_by_a_symlink(name: str) -> None:
    link = ROOT / "embeddaemon" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", name)
    tracked = subprocess.run(
        ["git", "ls-files", "-s", f"embeddaemon/{name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert tracked.returncode != 0 or tracked.stdout.startswith("120000 "), "git does not keep it as a symlink"


def test_file_that_decides_imports_no_clock_no_chance_and_no_io() -> None:
    wrong = {
        str(path.relative_to(ROOT)): roots for path in pure_files() if (roots := imported_roots(path) & IMPURE_MODULES)
    }
    assert wrong == {}


def test_file_that_decides_imports_no_shell_of_ours() -> None:
    shells = {f"{package(folder)}.{name}" for folder, names in SHELLS.items() for name in names}
    wrong = {str(path.relative_to(ROOT)): names for path in pure_files() if (names := imported_names(path) & shells)}
    assert wrong == {}


def test_every_folder_with_shells_says_which_of_its_files_they_are() -> None:
    listed = {folder for folder in SHELLS if folder.startswith("embeddaemon/supervisor")}
    assert listed == {str(path.parent.relative_to(ROOT)) for path in (ROOT / "embeddaemon/supervisor").rglob("*.py")}


def test_files_are_imported_by_one_name_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: import {root}"
        for path in python_files(ROOT)
        for root in imported_roots(path) & {"governor", "workers"}
    ]
    assert wrong == []


# What comes from outside is never turned into objects by running what it says.
FORBIDDEN = re.compile(
    r"""\b(?: (?:import|from)\s+(?:c?[Pp]ickle|marshal|shelve|dill|joblib|cloudpickle)\b
        | (?:recv|send)_pyobj
        | yaml\.(?:unsafe_)?load\b
        | trust_remote_code\s*=\s*True
        | allow_pickle\s*=\s*True
        | weights_only\s*=\s*False
    )""",
    re.VERBOSE,
)
TORCH_LOAD = re.compile(r"\btorch\.load\((?![^()]*weights_only\s*=\s*True)")


@pytest.mark.parametrize("pattern", [FORBIDDEN, TORCH_LOAD], ids=["pickle", "torch.load"])
def test_nothing_unpickles_what_comes_from_outside(pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for folder in PACKAGES
        for path in python_files(folder)
        for match in pattern.finditer(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from marshal import loads",
        "socket.recv_pyobj()",
        "yaml.load(text)",
        "model = torch.load(path)",
        "torch.load(path, weights_only=False)",
    ],
)
def test_search_for_pickle_finds_what_it_is_meant_to_find(line: str) -> None:
    assert FORBIDDEN.search(line) or TORCH_LOAD.search(line)


def python_files(folder: Path) -> list[Path]:
    """Each of our files once: the symlinks are not followed."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in {"build", "dist"}]
        found += [Path(parent, name) for name in names if name.endswith(".py")]
    return sorted(found)


def pure_files() -> list[Path]:
    found = [ROOT / name for name in PURE_FILES]
    for folder, shells in SHELLS.items():
        found += [path for path in sorted((ROOT / folder).glob("*.py")) if path.stem not in shells]
    return found


def package(folder: str) -> str:
    """The name under which a folder is imported."""
    return ".".join(Path("embeddaemon", Path(folder).relative_to("embeddaemon") if "/" in folder else folder).parts)


def imported_roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported_names(path)}


def imported_names(path: Path) -> set[str]:
    """What a file imports, wherever in the file: for `from a import b` both a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names
