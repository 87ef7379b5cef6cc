"""The command line without a daemon: help, usage, exit codes, configuration, doctor."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from embeddaemon.cli import checks, serve
from embeddaemon.cli.app import Program, cli
from embeddaemon.cli.checks import Finding, State, configuration
from embeddaemon.cli.console import Exit, duration, exit_code
from embeddaemon.errors import (
    BackingOff,
    Busy,
    ConfigError,
    DaemonUnreachable,
    Draining,
    EmbedDaemonError,
    Expired,
    Forbidden,
    HubUnreachable,
    InvalidInput,
    NoHeadroom,
    ProtocolError,
    UnknownModel,
    WorkerCrashed,
)
from tests.support.checkpoints import TinyBert, TinyDense
from tests.support.families.mpnet import TinyMPNet

COMMANDS = ("serve", "embed", "status", "ps", "models", "load", "unload", "bench", "doctor", "config")


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("EMBEDDAEMON_ENDPOINT", "EMBEDDAEMON_CONFIG", "EMBEDDAEMON_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-configuration"))


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=stdin)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (DaemonUnreachable("x"), 3),
        (Busy("x"), 4),
        (NoHeadroom("x"), 1),
        (Draining("x"), 4),
        (BackingOff("x"), 4),
        (Forbidden("x"), 1),
        (InvalidInput("x"), 1),
        (UnknownModel("x"), 1),
        (Expired("x"), 1),
        (WorkerCrashed("x"), 1),
        (HubUnreachable("x"), 1),
        (ProtocolError("x"), 1),
        (EmbedDaemonError("x"), 1),
    ],
)
def test_every_error_has_its_exit_code(error: EmbedDaemonError, code: int) -> None:
    assert exit_code(error) == code


def test_help_names_every_command_and_exit_code() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for word in (*COMMANDS, "Exit codes", "130"):
        assert word in result.stdout


@pytest.mark.parametrize("command", [(one,) for one in COMMANDS] + [("config", "check"), ("config", "show")])
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    assert len(result.stdout) > 120


def test_version_is_shown() -> None:
    assert run("--version").stdout.startswith("embeddaemon ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embde"], "No such command 'embde'"),
        (["embed", "--frmat", "npy", "x"], "No such option"),
        (["embed", "x", "-i", "f"], "give one of them"),
        (["embed", "x", "--task", "a", "--prompt", "b"], "give one of them"),
        (["embed", "x", "-o", "out.txt"], "ends with .npy, .jsonl or .json"),
        (["embed", "x", "--timeout", "0"], "--timeout"),
        (["bench", "--seconds", "0"], "--seconds"),
        (["bench", "--clients", "0"], "--clients"),
        (["embed", "x", "--endpoint", "tcp://1.2.3.4:5"], "needs server_key"),
        (["serve", "--model", "mini"], "must be NAME=SOURCE"),
        (["serve", "--memory-budget", "lots"], "flag --memory-budget: daemon.memory_budget = 'lots'"),
        (["serve", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (["config", "check", "--config", "/nowhere.toml"], "/nowhere.toml"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == Exit.USAGE
    assert words in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [["embed", "x"], ["status"], ["ps"], ["models"], ["load", "m"], ["unload", "m"], ["bench"]]
)
def test_missing_daemon_ends_with_3_and_says_how_to_start_it(arguments: list[str]) -> None:
    result = run(*arguments, "--endpoint", "/tmp/embeddaemon-test-nobody.sock")
    assert result.exit_code == Exit.UNREACHABLE
    assert "embeddaemon serve" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_unreachable_daemon_leaves_no_output_file(tmp_path: Path) -> None:
    result = run("embed", "x", "-o", str(tmp_path / "out.npy"), "--endpoint", "/tmp/embeddaemon-test-nobody.sock")
    assert result.exit_code == Exit.UNREACHABLE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (Busy("the queue is full", retry_after_ms=1500), 4, ["error: the queue is full", "again in 1.5 s"]),
        (WorkerCrashed("it died", cause=["SIGKILL"]), 1, ["error: it died", "caused by SIGKILL"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (BrokenPipeError(), 141, []),
        (PermissionError(13, "Permission denied", "/x"), 1, ["error: /x: Permission denied"]),
        (ZeroDivisionError("oh"), 1, ["error: ZeroDivisionError: oh", "--debug"]),
    ],
)
def test_whatever_a_command_raises_becomes_a_line_and_an_exit_code(
    raised: BaseException, code: int, words: list[str]
) -> None:
    @click.command()
    def fail() -> None:
        raise raised

    class Failing(Program):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
            return fail

    program = Failing(params=[click.Option(["--debug"], is_flag=True, expose_value=False)])
    result = CliRunner().invoke(program, ["embed"])
    assert result.exit_code == code
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    if isinstance(raised, Exception) and not isinstance(raised, BrokenPipeError):
        assert "Traceback" in CliRunner().invoke(program, ["embed"], env={"EMBEDDAEMON_DEBUG": "1"}).stderr


def test_serve_in_a_clients_install_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "DAEMON_MODULES", ("no_such_module_here",))
    result = run("serve")
    assert result.exit_code == Exit.USAGE
    assert "pip install 'embeddaemon[daemon]'" in result.stderr


def test_config_show_prints_a_file_with_origins(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text('[daemon]\nlog_level = "debug"\n[models.mini]\nsource = "path:/m"\n')
    result = run("config", "show", "--config", str(file))
    assert result.exit_code == 0
    assert tomllib.loads(result.stdout)["daemon"]["log_level"] == "debug"
    line = next(line for line in result.stdout.splitlines() if line.startswith("log_level"))
    assert line.endswith(f"# {file}")
    rows = json.loads(run("config", "show", "--json", "--config", str(file)).stdout)
    assert {"key": "models.mini.source", "value": "path:/m", "origin": str(file)} in rows


def test_config_check_looks_into_the_models_folders(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(f'[models.mini]\nsource = "path:{tmp_path}/nowhere"\n')
    result = run("config", "check", "--config", str(file))
    assert result.exit_code == Exit.USAGE
    assert "models.mini" in result.stderr
    assert "nowhere" in result.stderr


def test_config_check_refuses_an_estimate_that_cannot_hold_the_model(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "model")
    file = tmp_path / "e.toml"
    file.write_text(f'[models.mini]\nsource = "path:{folder}"\nestimate = "1KiB"\n')
    result = run("config", "check", "--config", str(file))
    assert result.exit_code == Exit.USAGE
    assert "models.mini.estimate" in result.stderr
    assert "cannot hold the model" in result.stderr


def test_config_check_refuses_a_cache_that_does_not_fit_the_budget_and_repeats_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text('[daemon]\nmemory_budget = "600MiB"\ncache_size = "900MB"\n')
    result = run("config", "check", "--config", str(file))
    assert result.exit_code == Exit.USAGE
    assert f"{file}: daemon.cache_size = '900MB': does not fit" in result.stderr
    assert "540 MiB can be leased of a memory budget of 600 MiB" in result.stderr


def test_config_check_refuses_eight_bits_where_auto_is_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embeddaemon.supervisor.surroundings.machine.default_device", lambda: "cuda")
    folder = TinyBert().write(tmp_path / "model")
    file = tmp_path / "e.toml"
    file.write_text(f'[models.mini]\nsource = "path:{folder}"\nprecision = "int8"\n')
    result = run("config", "check", "--config", str(file))
    assert result.exit_code == Exit.USAGE
    assert "models.mini.precision = 'int8': is not computed on cuda, which is device 'auto' here" in result.stderr


def test_config_check_and_doctor_name_all_models_that_cannot_be_served_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mpnet = TinyBert().write(tmp_path / "model"), TinyMPNet().write(tmp_path / "mpnet")
    dense = TinyBert(dense=(TinyDense(size=8),)).write(tmp_path / "dense")
    file = tmp_path / "e.toml"
    file.write_text(
        f'[models.gone]\nsource = "path:{tmp_path}/nowhere"\n[models.good]\nsource = "path:{folder}"\n'
        f'[models.card]\nsource = "path:{folder}"\ndevice = "cuda:9"\n'
        f'[models.mp]\nsource = "path:{mpnet}"\ndevice = "cpu"\nprecision = "int8"\n'
        f'[models.wide]\nsource = "path:{dense}"\npooling = ["cls", "mean"]\n'
        f'[models.small]\nsource = "path:{folder}"\nestimate = "1KiB"\n[daemon]\ndefault_model = "good"\n'
    )
    monkeypatch.setattr("embeddaemon.supervisor.surroundings.machine.default_device", lambda: "cpu")
    result = run("config", "check", "--config", str(file))
    assert result.exit_code == Exit.USAGE
    lines = result.stderr.splitlines()
    assert [line.removeprefix("error: models.").partition(".")[0].partition(":")[0] for line in lines] == [
        "gone", "card", "mp", "wide", "small"
    ]  # fmt: skip
    assert lines[3].startswith("error: models.wide.pooling = ['cls', 'mean'] gives 64 dimensions")
    assert "for models of BERT's layout, not for this one (mpnet)" in lines[2]
    finding = configuration({"EMBEDDAEMON_CONFIG": str(file)})
    assert finding.state is State.BROKEN
    assert [f"error: {line}" for line in finding.more] == lines


def test_config_check_of_the_defaults_is_right() -> None:
    result = run("config", "check")
    assert result.exit_code == 0
    assert result.stdout.startswith("the configuration is right")


def test_doctor_says_what_is_broken_and_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        Finding("python", State.GOOD, "3.11"),
        Finding("libraries", State.BROKEN, "missing: torch", "pip install 'embeddaemon[daemon]'"),
    ]
    monkeypatch.setattr(
        "embeddaemon.cli.doctor.all_checks", lambda *_: [lambda one=finding: one for finding in findings]
    )
    result = run("doctor")
    assert result.exit_code == Exit.FAILED
    assert "→ pip install 'embeddaemon[daemon]'" in result.stdout
    assert result.stdout.endswith("broken: libraries\n")
    assert json.loads(run("doctor", "--json").stdout)["ok"] is False


def test_doctor_in_a_clients_install_starts_no_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "DAEMON_MODULES", ("no_such_module_here",))
    found = checks.fork_server()
    assert (found.state, "no_such_module_here missing" in found.found) == (State.NOTE, True)


def test_processor_without_fast_bfloat16_is_noted(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: Old One\nflags\t\t: fpu avx2 sse\n")
    found = checks.processor(cpuinfo)
    assert (found.state, "Old One: avx2" in found.found) == (State.NOTE, True)
    cpuinfo.write_text("model name\t: New One\nflags\t\t: avx2 avx512_bf16\n")
    assert checks.processor(cpuinfo).state is State.GOOD


def test_checks_of_this_machine_find_something() -> None:
    for check in (checks.python, checks.cores, checks.memory, checks.descriptors, checks.devices, checks.libraries):
        assert check().found


def test_daemon_check_notes_that_nobody_listens() -> None:
    assert checks.daemon("/tmp/embeddaemon-test-nobody.sock").state is State.NOTE
    assert checks.daemon("tcp://x").state is State.BROKEN


def test_client_half_imports_neither_torch_nor_the_supervisor() -> None:
    program = """
import sys
import embeddaemon.cli.app, embeddaemon.cli.embed, embeddaemon.cli.daemon, embeddaemon.cli.config, embeddaemon.cli.serve
loaded = [name for name in sys.modules if name.split(".")[0] in {"torch", "transformers"} or "supervisor" in name]
print(loaded)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "embeddaemon", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("embeddaemon ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.44, "0.4 s"), (59, "59 s"), (192, "3 m 12 s"), (7500, "2 h 5 m"), (781_300, "9 d 1 h")],
)
def test_durations_are_readable(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
