"""The wheel and the sdist carry the packages behind the symlinks, and nothing that is not ours."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_distribution_holds_every_module_and_the_packages_behind_the_symlinks(tmp_path: Path, kind: str) -> None:
    names = contents(build(tmp_path, kind))
    modules = {
        str(path.relative_to(parent))
        for parent, package in ((ROOT, "embeddaemon"), (ROOT, "governor"), (ROOT, "workers"))
        for path in (parent / package).rglob("*.py")
    }
    assert {"embeddaemon/supervisor/core.py", "governor/core.py", "workers/packing.py"} <= modules
    modules = {name if name.startswith("embeddaemon/") else f"embeddaemon/{name}" for name in modules}
    assert modules == {name for name in names if name.endswith(".py") and name.startswith("embeddaemon/")}
    assert "embeddaemon/py.typed" in names
    units = {str(path.relative_to(ROOT)) for path in (ROOT / "systemd").rglob("*") if path.is_file()}
    assert len(units) >= 7
    assert {f"embeddaemon/{unit}" for unit in units} <= names
    assert not [name for name in names if name.split("/")[0] in {"governor", "systemd", "workers"}]


def build(folder: Path, kind: str) -> Path:
    """Build from a copy of the working tree, so that the build leaves nothing in the repository."""
    source, target = folder / "source", folder / "target"
    source.mkdir()
    for name in ("embeddaemon", "governor", "systemd", "workers"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    target.mkdir()
    program = f"from setuptools.build_meta import build_{kind}; print(build_{kind}({str(target)!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target / done.stdout.split()[-1]


def contents(archive: Path) -> set[str]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return set(wheel.namelist())
    with tarfile.open(archive) as sdist:
        return {name.partition("/")[2] for name in sdist.getnames()}
