"""The real all-MiniLM-L6-v2 in 8 bits: its accuracy, its scales' file, and where it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from embeddaemon.config.hardware import computes_int8
from embeddaemon.errors import UnsupportedModel
from embeddaemon.models.card import ModelCard
from embeddaemon.models.folder import read_card
from embeddaemon.models.order import LoadOrder
from embeddaemon.models.sources import locate, parse_source
from embeddaemon.models.table import default_spec
from embeddaemon.protocol.limits import Limits
from embeddaemon.workers import device
from embeddaemon.workers.engines import LoadedModel, Rows
from embeddaemon.workers.engines.torch_engine import load
from embeddaemon.workers.engines.torch_engine.int8 import arithmetic, calibration, scales
from embeddaemon.workers.engines.torch_engine.int8.plan import Accuracy, LayerPlan, Plan, Steps
from embeddaemon.workers.engines.torch_engine.int8.scales import Calibration, Shape
from embeddaemon.workers.engines.torch_engine.loading import calibrate
from tests.support.checkpoints import TinyBert
from tests.support.embedding import bundled, card_of, cosines

needs_int8 = pytest.mark.skipif(not computes_int8(), reason="the processor multiplies no bytes")

TEXTS = [
    "A heron stood in the shallow water and did not move for an hour.",
    "error: undefined reference to `main'",
    "Der Wind hat gedreht.",
    "quarterly revenue of semiconductor companies",
    " ".join(["The gate opens at nine, closes at five, and is locked on Sundays."] * 8),
]
SHAPE = Shape(layers=1, hidden=2, intermediate=3)
LAYER = LayerPlan(
    (1.0, 2.5), Steps(0.5, 3), Steps(0.1, 0), (0.7, 1.0), Steps(0.2, 255), Steps(0.3, 7), (2,), Steps(4, 1)
)
CALIBRATION = Calibration(Plan((LAYER,)), Accuracy(0.991, 0.998, 60), "own")


def bundled_card() -> ModelCard:
    spec = default_spec()
    return read_card(spec, locate(parse_source(spec.source)))


def order(card: ModelCard, state_folder: Path | None = None, *, accept_inaccurate: bool = False) -> LoadOrder:
    return LoadOrder(
        card=card,
        device="cpu",
        precision="int8",
        token_budget=512,
        limits=Limits(),
        state_folder=None if state_folder is None else str(state_folder),
        accept_inaccurate=accept_inaccurate,
    )


def vectors(model: LoadedModel, texts: list[str]) -> Rows:
    encoded = model.tokenize(texts, prompt="", max_tokens=256)
    ids = np.concatenate([np.array(one.ids, dtype=np.int32) for one in encoded])
    return model.forward(ids, np.array([len(one.ids) for one in encoded], dtype=np.int32), None)


@pytest.fixture(scope="module")
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def model(state_folder: Path) -> LoadedModel:
    """Calibrated, and its scales kept."""
    return load(order(bundled_card(), state_folder))


@needs_int8
def test_int8_keeps_the_cosine_on_texts_that_did_not_calibrate_it(model: LoadedModel) -> None:
    found = cosines(vectors(model, TEXTS), bundled("float32").embed(TEXTS, normalize=False))
    assert found.min() >= 0.99
    assert found.mean() >= 0.997


@needs_int8
def test_text_alone_is_as_near_to_float32_as_in_a_batch(model: LoadedModel) -> None:
    alone = np.concatenate([vectors(model, [text]) for text in TEXTS])
    assert cosines(alone, vectors(model, TEXTS)).min() >= 0.995


@needs_int8
def test_facts_name_the_precision_and_the_smaller_weights(model: LoadedModel) -> None:
    assert model.facts.precision == "int8"
    assert model.facts.weights_bytes < 2 * model.facts.parameters


@needs_int8
def test_second_load_reads_the_scales_and_gives_the_same_vectors(
    model: LoadedModel, state_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        again = load(order(bundled_card(), state_folder))
    assert "int8_calibrated" not in caplog.text
    np.testing.assert_array_equal(vectors(again, TEXTS), vectors(model, TEXTS))


@needs_int8
def test_public_arithmetic_gives_vectors_as_near_to_float32(
    monkeypatch: pytest.MonkeyPatch, model: LoadedModel, state_folder: Path
) -> None:
    monkeypatch.setattr("embeddaemon.workers.engines.torch_engine.int8.arithmetic.can_pack", lambda: False)
    public = load(order(bundled_card(), state_folder))
    exact = bundled("float32").embed(TEXTS, normalize=False)
    assert cosines(vectors(public, TEXTS), exact).min() >= 0.99
    assert cosines(vectors(public, TEXTS), vectors(model, TEXTS)).min() >= 0.995


@needs_int8
def test_private_and_public_arithmetic_agree_operator_by_operator() -> None:
    generator = torch.Generator().manual_seed(2)
    weight, bias = torch.randn(96, 64, generator=generator) / 8, torch.randn(96, generator=generator)
    codes = torch.randint(0, 256, (40, 64), dtype=torch.uint8, generator=generator)
    private = arithmetic._projection(weight, bias, 0.03, 120, arithmetic._packed)
    public = arithmetic._projection(weight, bias, 0.03, 120, arithmetic.dequantized)
    torch.testing.assert_close(
        arithmetic.project(codes, private, bias), arithmetic.project(codes, public, bias), atol=1e-4, rtol=1e-4
    )
    residual = torch.randn(40, 96, generator=generator)
    torch.testing.assert_close(
        arithmetic.project_onto(codes, private, residual.clone()),
        arithmetic.project_onto(codes, public, residual.clone()),
        atol=1e-4,
        rtol=1e-4,
    )
    apart = arithmetic.project_gelu(codes, private, 0.02, 9).int() - arithmetic.project_gelu(codes, public, 0.02, 9)
    assert apart.abs().max() <= 1
    assert (apart != 0).float().mean() < 0.01


@pytest.mark.parametrize(
    ("value", "code"), [(0.0, 100), (0.5, 101), (-0.74, 99), (77.4, 255), (1e9, 255), (-50.0, 0), (-1e9, 0)]
)
def test_value_becomes_the_nearest_code_within_the_range(value: float, code: int) -> None:
    rows = torch.full((3, 2), value)
    codes = arithmetic.quantize(rows, arithmetic.codes_by(0.5, 100, torch.ones(2)), arithmetic.scratch(3, 2))
    assert codes.dtype == torch.uint8
    assert codes.tolist() == [[code, code]] * 3


@needs_int8
def test_inaccurate_model_is_refused_with_its_numbers_unless_it_is_accepted(tmp_path: Path) -> None:
    """Random weights of a tiny model: whatever it is worth, a floor above one is out of reach."""
    card = card_of(TinyBert().write(tmp_path / "model"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "MEAN_COSINE", 1.1)
        with pytest.raises(UnsupportedModel, match=r"lowest cosine is \d\.\d+ .* mean \d\.\d+ \(at least 1\.1\)"):
            load(order(card, tmp_path / "state"))
        with pytest.raises(UnsupportedModel, match="accept_inaccurate"):  # from the file this time
            load(order(card, tmp_path / "state"))
        assert load(order(card, tmp_path / "state", accept_inaccurate=True)).facts.precision == "int8"


@needs_int8
def test_layout_without_a_forward_in_8_bits_is_refused(tmp_path: Path) -> None:
    folder = TinyBert(config={"hidden_act": "relu"}).write(tmp_path / "model")
    with pytest.raises(UnsupportedModel, match="layout"):
        load(order(card_of(folder)))


def test_int8_is_refused_where_the_processor_multiplies_no_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "computes_int8", lambda: False)
    with pytest.raises(UnsupportedModel, match="VNNI"):
        device.resolve_precision("int8", torch.device("cpu"))


def test_int8_is_refused_on_other_devices() -> None:
    with pytest.raises(UnsupportedModel, match="not on cuda"):
        device.resolve_precision("int8", torch.device("cuda"))


def test_auto_is_never_int8() -> None:
    assert device.resolve_precision("auto", torch.device("cpu")) is not torch.int8


@needs_int8
def test_unwritable_state_folder_is_a_line_in_the_log_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = card_of(TinyBert().write(tmp_path / "model"))
    blocked = tmp_path / "a file"
    blocked.write_text("not a folder")
    load(order(card, blocked, accept_inaccurate=True))
    assert caplog.text.count("int8_scales_not_kept") == 1


def test_scales_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = scales.path_of(tmp_path, "abc")
    assert scales.write(path, "abc", CALIBRATION)
    assert scales.read(path, "abc", SHAPE) == CALIBRATION


@pytest.mark.parametrize("damage", ["cut", "changed", "no json", "other weights", "other shape", "link", "world"])
def test_scales_that_cannot_be_trusted_are_as_good_as_absent(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = scales.path_of(tmp_path, "abc")
    scales.write(path, "abc", CALIBRATION)
    shape, weights, text = SHAPE, "abc", path.read_text()
    match damage:
        case "cut":
            path.write_text(text[:-20])
        case "changed":
            path.write_text(text.replace("0.991", "0.999"))
        case "no json":
            path.write_bytes(b"\xff\x00")
        case "other weights":
            weights = "abd"
        case "other shape":
            shape = Shape(layers=1, hidden=3, intermediate=3)
        case "link":
            path.rename(tmp_path / "elsewhere")
            path.symlink_to(tmp_path / "elsewhere")
        case "world":
            path.chmod(0o666)
    assert scales.read(path, weights, shape) is None
    assert "int8_scales_not_used" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"into": {"scale": -1.0, "zero": 3}},
        {"into": {"scale": 1.0, "zero": 256}},
        {"into": {"scale": float("nan"), "zero": 3}},
        {"outliers": [3]},
        {"outliers": [1, 1]},
        {"wide_smoothing": [1.0]},
        {"wide_smoothing": [1.0, 0.0]},
    ],
)
def test_scales_that_make_no_sense_are_not_used_though_their_digest_is_right(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    path = scales.path_of(tmp_path, "abc")
    scales.write(path, "abc", CALIBRATION)
    content = json.loads(path.read_text())["content"]
    content["layers"][0] |= wrong
    path.write_text(json.dumps({"sha256": scales._digest(content), "content": content}))
    assert scales.read(path, "abc", SHAPE) is None


def test_users_texts_are_divided_and_none_is_on_both_sides() -> None:
    prose = calibration.prose_from("mine", [str(number) for number in range(40)])
    ours = calibration.own_prose().held_out
    assert prose.held_out[10:] == ours
    assert sorted([*prose.calibrate, *prose.held_out[:10]], key=int) == [str(number) for number in range(40)]


def test_texts_that_are_all_the_same_are_one_text_and_do_not_measure_themselves() -> None:
    prose = calibration.prose_from("mine", ["the same"] * 400)
    assert not prose.calibrate
    assert prose.held_out == ("the same", *calibration.own_prose().held_out)


def test_other_scales_are_another_calibration(model: LoadedModel, tmp_path: Path) -> None:
    """Who keeps answers keeps them for the facts, and these scales give other vectors."""
    ours = calibration.own_prose()
    asked = order(bundled_card(), tmp_path, accept_inaccurate=True)
    calibrate(asked, calibration.Prose("fewer", ours.calibrate[:40], ours.held_out))
    other = load(asked)
    assert model.facts.calibration
    assert other.facts.calibration not in {"", model.facts.calibration}


def test_own_prose_measures_on_texts_that_do_not_calibrate() -> None:
    prose = calibration.own_prose()
    assert not set(prose.calibrate) & set(prose.held_out)
    assert min(len(prose.calibrate), len(prose.held_out)) >= 60
