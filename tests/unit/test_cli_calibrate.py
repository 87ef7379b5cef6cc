"""``models calibrate``: what it refuses before it computes, and that it finds, tells and keeps scales."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from embeddaemon.cli.app import cli
from embeddaemon.config.hardware import computes_int8
from embeddaemon.workers.engines.torch_engine.int8.calibration import own_prose
from tests.support.checkpoints import TinyBert

WORDS = (
    "red planet",
    "what is the large river",
    "a dog in the tree",
    "night",
    "blue sea : light of the moon , small star",
)


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    TinyBert().write(tmp_path / "model")
    path = tmp_path / "embeddaemon.toml"
    path.write_text(f'[models.tiny]\nsource = "path:{tmp_path}/model"\naccept_inaccurate = true\n')
    return path


def calibrate(configuration: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["models", "calibrate", *arguments, "--config", str(configuration)])


def texts(folder: Path, count: int) -> Path:
    path = folder / "texts.txt"
    path.write_text("".join(f"{WORDS[number % 5]} {'abcdefgh'[number % 8]}\n" for number in range(count)))
    return path


@pytest.mark.skipif(not computes_int8(), reason="the processor multiplies no bytes")
def test_calibrating_tells_the_cosines_and_keeps_the_scales(configuration: Path, tmp_path: Path) -> None:
    found = calibrate(configuration, "tiny", "--file", str(texts(tmp_path, 40)))
    assert found.exit_code == 0, found.output
    assert f"on 30 texts, measuring on {10 + len(own_prose().held_out)} others" in found.stderr
    assert "lowest cosine  0." in found.stdout
    assert len(list((tmp_path / "state" / "int8").glob("*.json"))) == 1


def test_unknown_model_is_a_usage_error_that_names_the_known_ones(configuration: Path) -> None:
    found = calibrate(configuration, "tinny")
    assert found.exit_code == 2
    assert "tiny" in found.stderr


def test_too_few_texts_are_refused(configuration: Path, tmp_path: Path) -> None:
    found = calibrate(configuration, "tiny", "--file", str(texts(tmp_path, 31)))
    assert found.exit_code == 1
    assert "at least 32" in found.stderr


def test_models_still_lists_and_offers_calibrate() -> None:
    assert "calibrate" in CliRunner().invoke(cli, ["models", "--help"]).output
