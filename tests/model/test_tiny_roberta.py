"""RoBERTa, XLM-RoBERTa and CamemBERT against sentence-transformers, by transformers' own positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.models.jsonfile import read_json
from embeddaemon.workers.engines import Ids
from embeddaemon.workers.engines.torch_engine import attention, encoder, varlen
from embeddaemon.workers.engines.torch_engine.device_encoder import DeviceEncoder
from embeddaemon.workers.engines.torch_engine.families import bert
from embeddaemon.workers.engines.torch_engine.families.roberta import positions_behind
from tests.model.test_tiny_bert import TEXTS, reference
from tests.support.embedding import card_of, cosines, embedder_of
from tests.support.roberta_checkpoints import TinyRoberta

FAMILIES = ("roberta", "xlm-roberta", "camembert")

each_family = pytest.mark.parametrize("family", FAMILIES)


def ints(values: list[int]) -> Ids:
    return np.array(values, dtype=np.int32)


@each_family
@pytest.mark.parametrize("mode", ["mean", "cls", "max", "weightedmean", "lasttoken", "mean_sqrt_len_tokens"])
def test_vectors_equal_the_reference(family: str, mode: str, tmp_path: Path) -> None:
    folder = TinyRoberta(family=family, pooling={"pooling_mode": mode}, new_layout=True).write(tmp_path)
    embedder = embedder_of(folder)
    assert embedder.model.facts.family == family
    np.testing.assert_allclose(embedder.embed(TEXTS), reference(folder, TEXTS), atol=1e-5)


@each_family
def test_padding_token_within_a_text_is_counted_as_the_reference_counts_it(family: str, tmp_path: Path) -> None:
    texts = ["the red <pad> planet", "<pad>", "<pad><pad> a star", "sun <pad> moon <pad> the", "the red planet"]
    folder = TinyRoberta(family=family).write(tmp_path)
    np.testing.assert_allclose(embedder_of(folder).embed(texts), reference(folder, texts), atol=1e-5)


@each_family
def test_longest_text_uses_the_last_position(family: str, tmp_path: Path) -> None:
    """The folder names no limit; the table has two places that no text uses."""
    tiny = TinyRoberta(family=family, sentence_config=None, tokenizer_config={"model_max_length": 10**30})
    embedder = embedder_of(tiny.write(tmp_path))
    assert embedder.card.max_tokens == 62
    texts = ["the red planet " * 60, "a"]
    TinyRoberta(family=family, sentence_config=None, tokenizer_config={"model_max_length": 62}).write(tmp_path)
    np.testing.assert_allclose(embedder.embed(texts), reference(tmp_path, texts), atol=1e-5)


@each_family
def test_checkpoint_of_a_class_with_a_head_is_read(family: str, tmp_path: Path) -> None:
    folder = TinyRoberta(family=family, prefix="roberta.", has_pooler=False).write(tmp_path)
    np.testing.assert_allclose(embedder_of(folder).embed(TEXTS), reference(folder, TEXTS), atol=1e-5)


@each_family
def test_prompt_left_out_of_the_pooling_equals_the_reference(family: str, tmp_path: Path) -> None:
    pooling = {"pooling_mode": ["mean", "cls", "weightedmean"], "include_prompt": False}
    tiny = TinyRoberta(family=family, pooling=pooling, prompts={"query": "query: "}, new_layout=True)
    folder = tiny.write(tmp_path)
    ours = embedder_of(folder).embed(TEXTS, task="query")
    np.testing.assert_allclose(ours, reference(folder, TEXTS, prompt_name="query"), atol=1e-5)


@each_family
def test_text_alone_equals_itself_among_others(family: str, tmp_path: Path) -> None:
    embedder = embedder_of(TinyRoberta(family=family).write(tmp_path))
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    np.testing.assert_allclose(embedder.embed(TEXTS), alone, atol=1e-5)


@each_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_functional_forwards_equal_the_native_class(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    attention.register()
    card = card_of(TinyRoberta(family=family, layers=3, heads=2).write(tmp_path))
    module = bert.build(read_json(tmp_path / "config.json").values, card, dtype)
    assert encoder.suits(module)
    lengths = ints([1, 2, 2, 7, 7, 7, 20, 31])
    numbers = np.arange(lengths.sum(), dtype=np.int32) * 7 % 20
    ids, positions = (torch.from_numpy(part).long() for part in (numbers, positions_behind(1)(numbers, lengths)))
    groups = attention.groups_of(lengths.tolist())
    with torch.inference_mode():
        expected = bert.forward(module, ids, positions, groups)
        for functional in (encoder.Encoder(module), DeviceEncoder(module, varlen.by_group)):
            distance = (functional.forward(ids, positions, groups) - expected).abs().max()
            assert distance < (1e-5 if dtype is torch.float32 else 8e-2)


@each_family
def test_bfloat16_stays_near_float32(family: str, tmp_path: Path) -> None:
    folder = TinyRoberta(family=family).write(tmp_path)
    assert cosines(embedder_of(folder).embed(TEXTS), embedder_of(folder, "bfloat16").embed(TEXTS)).min() > 0.999


def test_positions_begin_behind_the_padding_token() -> None:
    positions = positions_behind(1)
    assert positions(ints([5, 6, 7, 5, 6]), ints([3, 2])).tolist() == [2, 3, 4, 2, 3]
    assert positions(ints([5, 1, 7, 1, 6, 5]), ints([3, 3])).tolist() == [2, 1, 3, 1, 2, 3]
    assert positions_behind(0)(ints([5, 6]), ints([1, 1])).tolist() == [1, 1]


@pytest.mark.parametrize("config", [{"max_position_embeddings": 2}, {"pad_token_id": None}, {"pad_token_id": 63}])
def test_folder_whose_positions_cannot_be_counted_is_refused(config: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="pad_token_id"):
        card_of(TinyRoberta(config=config).write(tmp_path))


def test_reranker_of_the_family_is_refused(tmp_path: Path) -> None:
    folder = TinyRoberta(config={"architectures": ["XLMRobertaForSequenceClassification"]}).write(tmp_path)
    with pytest.raises(UnsupportedModel, match="scores"):
        card_of(folder)
