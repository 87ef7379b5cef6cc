"""``embeddaemon plan``: what it says, with which exit code, and that it says so without starting anything."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from embeddaemon.cli.app import cli
from embeddaemon.cli.model_checks import Checked, card_here
from embeddaemon.cli.plan import make_plan
from embeddaemon.config.flags import Flags
from embeddaemon.config.loading import load_settings
from embeddaemon.config.settings import Settings
from embeddaemon.governor.budget import GIB, MIB
from embeddaemon.governor.formula import FORK_SERVER_BYTES
from embeddaemon.governor.learned import Key, Learned, Measured
from embeddaemon.governor.learned_json import to_text
from embeddaemon.governor.plan import Fit
from embeddaemon.models.folder import read_card
from embeddaemon.models.spec import ModelSpec
from embeddaemon.supervisor.memory import footprint_file
from embeddaemon.supervisor.state import Machine
from tests.support.checkpoints import TinyBert
from tests.support.fake_probe import FakeCard, FakeProbe

MACHINE = Machine(
    cores=2, has_bfloat16=True, device="cpu", instance="test", version="0", pid=1, started_at=0.0
)  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("EMBEDDAEMON_ENDPOINT", "EMBEDDAEMON_CONFIG", "EMBEDDAEMON_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-configuration"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Three models of 300 MiB each, the last one preloaded."""
    folder = TinyBert().write(tmp_path / "model")
    lines = [f'[models.{name}]\nsource = "path:{folder}"\nestimate = "300MiB"' for name in ("a", "b", "c")]
    path = tmp_path / "embeddaemon.toml"
    path.write_text("\n".join([*lines, "preload = true"]))
    return path


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["plan", "--config", str(config), *arguments])


def document(config: Path, *arguments: str) -> dict[str, Any]:
    result = run(config, "--json", *arguments)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def fits(config: Path, *arguments: str) -> dict[str, str]:
    return {model["name"]: model["fits"] for model in document(config, *arguments)["models"]}


def seen(settings: Settings) -> Checked:
    return Checked({spec.name: card_here(spec) for spec in settings.models})


def test_models_that_fit_side_by_side_are_told_so(config: Path) -> None:
    result = run(config, "--memory-budget", "2GiB")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("ram          2.0 GiB (")
    assert lines[1] == (
        "             of it 205 MiB are never leased: for the supervisor, and for what grows between two samples"
    )
    rows = [line.split("  ") for line in lines if line.startswith(("a ", "b ", "c "))]
    assert [row[0].strip() for row in rows] == ["c", "a", "b"], "preloaded models come first"
    assert all("yes" in row for row in rows)


def test_model_that_another_must_go_for_is_named(config: Path) -> None:
    result = run(config, "--memory-budget", "1100MiB")
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("b ")]
    assert "evicts c" in line


def test_model_goes_however_long_it_is_to_stay_at_least(config: Path) -> None:
    settings = load_settings(config_file=config, environment={}, flags=Flags(memory_budget="1100MiB"))
    probe = FakeProbe(limit_bytes=8 * GIB)
    planned = make_plan(replace(settings, min_residence_seconds=1e6), seen(settings), probe, MACHINE)
    assert [outcome.fit for outcome in planned.outcomes] == [Fit.YES, Fit.YES, Fit.EVICTS]


def test_models_are_wanted_in_the_order_in_which_they_are_named(config: Path) -> None:
    found = document(config, "b", "a", "b", "--memory-budget", "1100MiB")
    assert [(model["name"], model["fits"]) for model in found["models"]] == [("b", "yes"), ("a", "yes")]
    assert found["fits"]


def test_model_that_never_fits_ends_as_wrong_configuration_does(config: Path) -> None:
    result = run(config, "--memory-budget", "600MiB")
    assert result.exit_code == 2
    assert "never" in result.stdout
    assert "a: needs" in result.stderr
    assert "never more than 540 MiB available" in result.stderr


def test_model_waits_for_those_that_are_pinned(config: Path) -> None:
    config.write_text(config.read_text() + "\npinned = true\n")
    result = run(config, "c", "a", "--memory-budget", "800MiB")
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("a ")]
    assert "waits for pinned c" in line
    assert "a: needs" in result.stderr


def test_numbers_add_up(config: Path) -> None:
    found = document(config, "a", "b", "--memory-budget", "2GiB")
    (budget,) = [each for each in found["budgets"] if each["device"] == "ram"]
    assert budget["bytes"] == 2 * GIB
    first, second = found["models"]
    assert first["at_rest_bytes"]["ram"] == 300 * MIB <= first["needs_bytes"]["ram"]
    assert first["leased_after_bytes"]["ram"] == found["fork_server_bytes"] + 300 * MIB
    assert second["leased_after_bytes"]["ram"] == found["fork_server_bytes"] + 600 * MIB


def test_workers_that_have_no_room_are_counted(config: Path) -> None:
    config.write_text(config.read_text() + "\nworkers = { min = 9, max = 9 }\n")
    result = run(config, "c", "--memory-budget", "1GiB")
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("c ")]
    assert "of 9 workers" in line


def test_one_more_model_may_be_given_by_flag(config: Path, tmp_path: Path) -> None:
    arguments = ("--model", f"extra={tmp_path / 'model'}", "--memory-budget", "4GiB")
    assert fits(config, *arguments) == {"c": "yes", "a": "yes", "b": "yes", "extra": "yes"}


def test_unknown_model_is_refused_with_those_that_are_known(config: Path) -> None:
    result = run(config, "d")
    assert result.exit_code == 2
    assert "'d' is not a configured model" in result.stderr
    assert "known are a, b, c" in result.stderr


def test_model_without_files_is_refused_by_its_name(config: Path, tmp_path: Path) -> None:
    result = run(config, "--model", f"gone=path:{tmp_path / 'missing'}")
    assert result.exit_code == 2
    assert "models.gone" in result.stderr


def test_models_that_cannot_be_served_are_left_out_with_the_reasons_and_the_others_are_planned(
    config: Path, tmp_path: Path
) -> None:
    config.write_text(
        f'{config.read_text()}\n[models.gone]\nsource = "path:{tmp_path}/missing"\n'
        f'[models.there]\nsource = "path:{tmp_path}/model"\ndevice = "cuda:7"\n'
        f'[models.small]\nsource = "path:{tmp_path}/model"\nestimate = "1KiB"\n'
    )
    result = run(config, "--memory-budget", "2GiB")
    assert result.exit_code == 2
    assert result.stdout.count("yes") == 3
    assert result.stdout.count("left out") == 3
    for reason in ("error: models.gone: ", 'models.there.device = "cuda:7"', "models.small.estimate"):
        assert reason in result.stderr
    assert set(document(config, "--memory-budget", "2GiB")["left_out"]) == {"gone", "there", "small"}


def test_model_of_the_hub_that_is_not_here_is_unknown_and_the_others_are_planned(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    result = run(config, "--model", "far=hub:nobody/nothing", "--memory-budget", "2GiB")
    assert result.exit_code == 1
    assert "unknown: not fetched from the hub yet" in result.stdout
    assert result.stdout.count("yes") == 3


def test_learned_footprints_are_planned_with(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "model")
    spec = ModelSpec(name="m", source=f"path:{folder}")
    card = read_card(spec, folder)
    learned = Learned(footprint_file.program())
    key = Key(
        card.weights_digest, "auto", "cpu", "fork", threads=2, token_budget=spec.token_budget, stream_tokens=2048,
        element_bytes=2 if MACHINE.has_bfloat16 else 4,
    )  # fmt: skip
    learned.put(key, Measured(template_peak_bytes=500 * MIB, template_bytes=400 * MIB))
    footprint_file.write(tmp_path / "state", to_text(learned))
    flags = Flags(models=(f"m={folder}",), memory_budget="4GiB")
    settings = load_settings(
        config_file=None,
        environment={"STATE_DIRECTORY": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path)},
        flags=flags,
    )
    planned = make_plan(settings, seen(settings), FakeProbe(limit_bytes=8 * GIB), MACHINE)
    (outcome,) = planned.outcomes
    assert outcome.fit is Fit.YES
    worker_bytes = outcome.at_rest[0].bytes - 420 * MIB
    assert outcome.needs[0].bytes == 525 * MIB + worker_bytes
    assert outcome.leased[0].bytes == FORK_SERVER_BYTES + 420 * MIB + worker_bytes


def test_cache_and_devices_have_their_place_in_the_plan(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "model")
    flags = Flags(models=(f"m={folder}",), memory_budget="4GiB")
    environment = {
        "XDG_CONFIG_HOME": str(tmp_path),
        "STATE_DIRECTORY": str(tmp_path),
        "EMBEDDAEMON_CACHE_SIZE": "100MiB",
    }
    settings = load_settings(config_file=None, environment=environment, flags=flags)
    probe = FakeProbe(limit_bytes=8 * GIB, cards={"cuda:0": FakeCard(10 * GIB, 10 * GIB)})
    planned = make_plan(replace(settings, gpu_memory_budget="50%"), seen(settings), probe, MACHINE)
    assert [(each.device, each.bytes) for each in planned.budgets] == [("ram", 4 * GIB), ("cuda:0", 5 * GIB)]
    (outcome,) = planned.outcomes
    ram, cuda = outcome.leased
    assert ram.bytes == 100 * MIB + FORK_SERVER_BYTES + outcome.at_rest[0].bytes
    assert (cuda.device, cuda.bytes) == ("cuda:0", 0)


def test_file_of_footprints_that_cannot_be_used_is_noted_and_the_plan_is_made(config: Path, tmp_path: Path) -> None:
    footprint_file.write(tmp_path / "state", "nonsense")
    result = run(config, "--memory-budget", "2GiB")
    assert result.exit_code == 0
    assert "what was measured before is not used" in result.stderr


def test_plan_imports_no_torch_and_leaves_nothing_behind(config: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    program = (
        "import sys\n"
        "from embeddaemon.cli.app import cli\n"
        f"try: cli(['plan', '--config', {str(config)!r}])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules), 'imported'\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "FITS" in result.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_model_for_a_device_that_is_not_here_is_refused(config: Path, tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "model")
    config.write_text(f'[models.far]\nsource = "path:{folder}"\ndevice = "cuda:7"\n')
    result = run(config)
    assert result.exit_code == 2
    assert 'models.far.device = "cuda:7"' in result.stderr


def test_precision_that_nothing_here_computes_is_refused(config: Path, tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "model")
    config.write_text(f'[models.m]\nsource = "path:{folder}"\nprecision = "float16"\n')
    result = run(config)
    assert result.exit_code == 2
    assert "float16" in result.stderr
