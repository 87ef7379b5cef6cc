"""What the code that a model was published with does to texts and vectors, where no file of its pipeline says so.

That code is never run here. Its habits: the model cards and the published classes of NV-Embed, gte-Qwen2, Stella 1.5B
and Qwen3-Embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

from embeddaemon.errors import CorruptModel
from embeddaemon.models.body import Body, has_bidirectional_code
from embeddaemon.models.jsonfile import JsonFile, read_json
from embeddaemon.models.pipeline import Pipeline
from embeddaemon.models.spec import Pooling

_DECODERS = frozenset({"qwen2", "qwen3", "mistral", "llama", "gemma3", "nv-embed"})
_QWEN_END = "<|endoftext|>"
_LLAMA_END = "</s>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conventions:
    """By the names of the card."""

    closing_token: str | None
    include_prompt: bool
    pools_last_prompt_token: bool
    normalize: bool


def conventions(body: Body, config: JsonFile, pipeline: Pipeline, pooling: tuple[Pooling, ...]) -> Conventions:
    """What goes for a folder; ``pooling`` as it is used. Raises CorruptModel."""
    is_nv_embed = body.family == "nv-embed"
    masks_prompt = is_nv_embed and config.boolean("is_mask_instruction", default=True)
    latents = config.section("latent_attention_config")
    return Conventions(
        closing_token=_closing_token(body, config, pipeline, pooling),
        include_prompt=pipeline.include_prompt and not masks_prompt,
        # Its class counts the prompt's tokens without the one before them, and leaves out so many from the first on.
        pools_last_prompt_token=is_nv_embed,
        normalize=pipeline.normalize or (is_nv_embed and latents.boolean("output_normalize", default=True)),
    )


def _closing_token(body: Body, config: JsonFile, pipeline: Pipeline, pooling: tuple[Pooling, ...]) -> str | None:
    """The token that must end every text, whatever tokenizer.json says; None: as that says."""
    if body.family not in _DECODERS:
        return None
    settings = read_json(pipeline.transformer / "tokenizer_config.json")
    said = _token(settings, "eos_token")
    if said is not None and settings.boolean("add_eos_token", default=False):
        return said
    if body.family == "nv-embed":
        return (said or _LLAMA_END) if config.boolean("add_eos", default=True) else None
    if has_bidirectional_code(config):
        return _QWEN_END
    # The last token is what Qwen3-Embedding was trained to pool; older files of it leave putting it there to the user.
    is_pooled = pooling == (Pooling.LAST_TOKEN,)
    return _QWEN_END if body.family == "qwen3" and body.is_causal and is_pooled else None


def _token(settings: JsonFile, key: str) -> str | None:
    """A token by name: its text, or a map that has it."""
    value = settings.values.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise CorruptModel(f"{settings.path}: {key!r} is no token")
    return value
