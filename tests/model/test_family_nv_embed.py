"""NV-Embed v2 against transformers' Mistral and a plain forward of the published description behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import gelu, layer_norm, normalize
from transformers import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralModel

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.workers.engines import Rows
from tests.support.checkpoints import write_json
from tests.support.embedding import card_of, cosines, embedder_of
from tests.support.families.decoder_tokenizers import pieces
from tests.support.families.decoders import TinyNvEmbed
from tests.support.family_checks import TEXTS, TOLERANCE, check_family

QUERY = "Instruct: a question\nQuery: "


def plain(folder: Path, texts: tuple[str, ...], prompt: str = "", window: int | None = None) -> Rows:
    """The published forward, one text at a time."""
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    body_config = {**config["text_config"], "model_type": "mistral", "sliding_window": window, "is_causal": False}
    body = MistralModel(MistralConfig.from_dict({**body_config, "attn_implementation": "eager"}))
    prefix = "embedding_model."
    body.load_state_dict({name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)})
    part = {name.split("attend_blocks.")[-1]: values for name, values in tensors.items() if "latent" in name}
    heads = config["latent_attention_config"]["num_cross_heads"]

    def norm(values: torch.Tensor, name: str) -> torch.Tensor:
        return layer_norm(values, values.shape[-1:], part[f"{name}.weight"], part[f"{name}.bias"], 1e-5)

    latents = norm(part["latent_attention_model.latents"], "0.norm_context")
    keys, values = (latents @ part["0.fn.to_kv.weight"].T).chunk(2, dim=-1)
    tokenizer, rows = pieces(closes=True), []
    masked = len(tokenizer.encode(prompt, add_special_tokens=False).ids) if prompt else 0
    for text in texts:
        hidden = body(torch.tensor([tokenizer.encode(prompt + text).ids])).last_hidden_state[0]
        queries = norm(hidden, "0.norm") @ part["0.fn.to_q.weight"].T
        split = [one.view(len(one), heads, -1).transpose(0, 1) for one in (queries, keys, values)]
        scores = split[0] @ split[1].transpose(1, 2) / split[0].shape[-1] ** 0.5
        hidden = hidden + (scores.softmax(-1) @ split[2]).transpose(0, 1).flatten(1) @ part["0.fn.to_out.weight"].T
        wide, gate = (norm(hidden, "1.norm") @ part["1.fn.net.0.weight"].T + part["1.fn.net.0.bias"]).chunk(2, dim=-1)
        hidden = hidden + wide * gelu(gate) @ part["1.fn.net.2.weight"].T + part["1.fn.net.2.bias"]
        rows.append(normalize(hidden[masked:].mean(dim=0), dim=0))
    rows_array: Rows = torch.stack(rows).detach().numpy()
    return rows_array


@pytest.mark.parametrize(
    "tiny",
    [
        TinyNvEmbed(),
        TinyNvEmbed(cross_heads=3, cross_head_dim=20, latent_dim=24, latents=9, heads=8, key_value_heads=2),
        TinyNvEmbed(pooling=None),
    ],
    ids=["published", "other sizes", "no modules.json"],
)
def test_vectors_equal_the_plain_forward(tiny: TinyNvEmbed, tmp_path: Path) -> None:
    embedder = embedder_of(tiny.write(tmp_path))
    assert (embedder.card.family, embedder.card.is_causal, embedder.card.normalize) == ("nv-embed", False, True)
    check_family(embedder, plain(tmp_path, TEXTS))


def test_many_tokens_are_computed_in_blocks(tmp_path: Path) -> None:
    tiny = TinyNvEmbed(positions=2048, sentence_config={"max_seq_length": 2048})
    embedder = embedder_of(tiny.write(tmp_path))
    texts = ("the red planet " * 300, "near the river " * 175)
    np.testing.assert_allclose(embedder.embed(texts), plain(tmp_path, texts), atol=TOLERANCE)


def test_window_of_the_body_is_not_looked_through(tmp_path: Path) -> None:
    """Guards against the window of Mistral's config, which the published class never applies."""
    tiny = TinyNvEmbed()
    ours = embedder_of(tiny.write(tmp_path)).embed(TEXTS)
    assert np.abs(ours - plain(tmp_path, TEXTS, window=4)).max() > 50 * TOLERANCE


@pytest.mark.parametrize("prompt", [QUERY, "Instruct: a question\nQuery:"], ids=["space", "no space"])
def test_last_token_of_the_prompt_is_pooled_as_the_published_mask_has_it(prompt: str, tmp_path: Path) -> None:
    """Guards against the mask of sentence-transformers, which counts the token before the prompt with it."""
    embedder = embedder_of(TinyNvEmbed(prompts={"query": prompt}).write(tmp_path))
    expected = plain(tmp_path, TEXTS, prompt)
    np.testing.assert_allclose(embedder.embed(TEXTS, task="query"), expected, atol=TOLERANCE)
    assert np.abs(embedder.embed([prompt + text for text in TEXTS]) - expected).max() > 50 * TOLERANCE


def test_every_text_has_the_first_token_and_the_last(tmp_path: Path) -> None:
    embedder = embedder_of(TinyNvEmbed().write(tmp_path))
    (encoded,) = embedder.model.tokenize(["the red"], prompt="", max_tokens=64)
    assert encoded.ids.tolist() == pieces(closes=True).encode("the red").ids
    assert encoded.ids[[0, -1]].tolist() == [1, 2]


def test_folder_that_closes_no_text_and_masks_no_prompt_says_so(tmp_path: Path) -> None:
    tiny = TinyNvEmbed(
        config={"add_eos": False, "is_mask_instruction": False}, pooling={"pooling_mode_mean_tokens": True}
    )
    card = card_of(tiny.write(tmp_path))
    assert (card.closing_token, card.include_prompt) == (None, True)


def test_latents_are_multiplied_into_what_is_held(tmp_path: Path) -> None:
    """What makes keys and values of the latents is a gigabyte of the published model, and needed once."""
    tiny = TinyNvEmbed(cross_heads=2, cross_head_dim=512)
    embedder = embedder_of(tiny.write(tmp_path))
    folded = 4 * 2 * 512 * 32 - 2 * 2 * 6 * 32 + 6 * 32 + 2 * 32
    assert embedder.card.parameters - embedder.model.facts.parameters == folded
    check_family(embedder, plain(tmp_path, TEXTS))


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    folder = TinyNvEmbed().write(tmp_path)
    assert cosines(embedder_of(folder).embed(TEXTS), embedder_of(folder, "bfloat16").embed(TEXTS)).min() > 0.99


@pytest.mark.parametrize("config", [{"latent_attention_config": None}, {"latent_attention_config": {"latent_dim": 32}}])
def test_config_without_the_latents_sizes_is_corrupt(config: dict[str, Any], tmp_path: Path) -> None:
    folder = TinyNvEmbed().write(tmp_path)
    published = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**published, **config})
    with pytest.raises(CorruptModel, match=r"latent|num_"):
        embedder_of(folder)


def test_scaled_rotations_that_are_not_served_are_refused(tmp_path: Path) -> None:
    folder = TinyNvEmbed().write(tmp_path)
    published = json.loads((folder / "config.json").read_text())
    published["text_config"]["rope_scaling"] = {"type": "dynamic", "factor": 2.0}
    write_json(folder / "config.json", published)
    with pytest.raises(UnsupportedModel, match="dynamic"):
        embedder_of(folder)
