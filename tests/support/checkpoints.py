"""Small BERT checkpoints in the published layout, made by a seed: what the hub holds, only tiny.

Weights of deviation 0.2 and random gains and biases, since zeros and ones hide swapped tensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

Tensors = dict[str, npt.NDArray[Any]]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = """
a the red blue green planet star moon is was has known as what which why how far near old new small large
query document passage search for of to in on sun water light night day cat dog tree house river sea
##s ##ed ##ing ##er ##est , . : ? ! ' - b c d e f g h i j k l m n o p q r s t u v w x y z
"""


@dataclass(frozen=True, kw_only=True)
class TinyDense:
    """A dense layer behind the pooling. ``sized``: its folder is called after its size, as Stella's are."""

    size: int
    activation: str | None = "torch.nn.modules.linear.Identity"
    """None: the key is left out."""
    bias: bool = True
    sized: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    """Over what its config.json would have."""

    def write(self, folder: Path, takes: int, seed: int) -> None:
        """Its folder: what it takes are columns of the weight."""
        config = {"in_features": takes, "out_features": self.size, "bias": self.bias}
        named = {} if self.activation is None else {"activation_function": self.activation}
        write_json(folder / "config.json", {**config, **named, **self.config})
        random = np.random.default_rng([seed, self.size])
        tensors = {"linear.weight": random.normal(0.0, 0.2, (self.size, takes)).astype(np.float32)}
        if self.bias:
            tensors["linear.bias"] = random.normal(0.0, 0.2, self.size).astype(np.float32)
        save_weights(folder / "model.safetensors", tensors)


@dataclass(kw_only=True)
class TinyBert:
    """What differs between one published folder and the next. ``write`` makes the folder."""

    seed: int = 0
    hidden: int = 32
    layers: int = 2
    heads: int = 4
    intermediate: int = 48
    positions: int = 64
    table_rows: int = 0
    """Of the table of words, where it is longer than the tokenizer's list: published ones are rounded up."""
    prefix: str = ""
    """Before every tensor's name: ``bert.`` in classes with a head."""
    old_names: bool = False
    """gamma and beta, as TensorFlow called them, and a position_ids tensor."""
    has_pooler: bool = True
    dtype: str = "float32"
    pooling: dict[str, Any] | None = field(default_factory=lambda: {"pooling_mode_mean_tokens": True})
    """``1_Pooling/config.json``; None: no modules.json at all."""
    new_layout: bool = False
    """Module types and keys as sentence-transformers 6 writes them."""
    dense: tuple[TinyDense, ...] = ()
    """Behind the pooling, one after the other."""
    other_sizes: tuple[int, ...] = ()
    """Of heads that lie beside the first dense layer's folder."""
    normalize: bool = True
    truncate_dim: int | None = None
    sentence_config: dict[str, Any] | None = field(default_factory=lambda: {"max_seq_length": 32})
    config: dict[str, Any] = field(default_factory=dict)
    """Over what config.json would have."""
    prompts: dict[str, str] | None = None
    default_prompt: str | None = None
    tokenizer_config: dict[str, Any] = field(default_factory=dict)
    tokenizer_json: bool = True
    """False: only vocab.txt is there."""

    @property
    def words(self) -> int:
        """Rows of the table of words."""
        return max(self.table_rows, len(vocabulary()))

    def write(self, folder: Path) -> Path:
        """All files of the model."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", self._config())
        self._write_tokenizer(folder)
        self._write_pipeline(folder)
        save_weights(folder / "model.safetensors", self.tensors())
        return folder

    def tensors(self) -> Tensors:
        """By the names of the file."""
        tensors: Tensors = {self._name(name): values for name, values in self.fill(self._shapes()).items()}
        if self.old_names:
            tensors[f"{self.prefix}embeddings.position_ids"] = np.arange(self.positions, dtype=np.int64)[None]
        return tensors

    def fill(self, shapes: dict[str, tuple[int, ...]]) -> Tensors:
        """Values by the seed."""
        random = np.random.default_rng(self.seed)
        return {name: _weights(random, name, shape).astype(self.dtype) for name, shape in shapes.items()}

    def _name(self, name: str) -> str:
        if self.old_names:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return self.prefix + name

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        hidden, intermediate = self.hidden, self.intermediate
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.words, hidden),
            "embeddings.position_embeddings.weight": (self.positions, hidden),
            "embeddings.token_type_embeddings.weight": (2, hidden),
            **norm("embeddings.LayerNorm", hidden),
        }
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            for projection in ("query", "key", "value"):
                shapes |= linear(f"{layer}.attention.self.{projection}", hidden, hidden)
            shapes |= linear(f"{layer}.attention.output.dense", hidden, hidden)
            shapes |= norm(f"{layer}.attention.output.LayerNorm", hidden)
            shapes |= linear(f"{layer}.intermediate.dense", intermediate, hidden)
            shapes |= linear(f"{layer}.output.dense", hidden, intermediate)
            shapes |= norm(f"{layer}.output.LayerNorm", hidden)
        return shapes | (linear("pooler.dense", hidden, hidden) if self.has_pooler else {})

    def _config(self) -> dict[str, Any]:
        return {
            "architectures": ["BertModel"],
            "attention_probs_dropout_prob": 0.1,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": self.positions,
            "model_type": "bert",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "pad_token_id": 0,
            "position_embedding_type": "absolute",
            "type_vocab_size": 2,
            "vocab_size": self.words,
            **self.config,
        }

    def _write_tokenizer(self, folder: Path) -> None:
        (folder / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": True,
                "model_max_length": self.positions,
                **{f"{name[1:-1].lower()}_token": name for name in SPECIAL},
                **self.tokenizer_config,
            },
        )
        if self.tokenizer_json:
            tokenizer = word_piece()
            # As the real MiniLM's file has it: a trap for whoever does not switch it off.
            tokenizer.enable_truncation(8)
            tokenizer.enable_padding(length=8)
            tokenizer.save(str(folder / "tokenizer.json"))

    def _write_pipeline(self, folder: Path) -> None:
        if self.sentence_config is not None:
            write_json(folder / "sentence_bert_config.json", self.sentence_config)
        settings: dict[str, Any] = {}
        if self.prompts is not None:
            settings = {"prompts": self.prompts, "default_prompt_name": self.default_prompt}
        if self.truncate_dim is not None:
            settings["truncate_dim"] = self.truncate_dim
        if settings:
            write_json(folder / "config_sentence_transformers.json", settings)
        if self.pooling is None:
            return
        write_json(folder / "modules.json", self._modules())
        (folder / "1_Pooling").mkdir(exist_ok=True)
        size_key = "embedding_dimension" if self.new_layout else "word_embedding_dimension"
        write_json(folder / "1_Pooling" / "config.json", {size_key: self.hidden, **self.pooling})
        self._write_dense(folder)
        if self.normalize:
            (folder / f"{2 + len(self.dense)}_Normalize").mkdir(exist_ok=True)

    def _write_dense(self, folder: Path) -> None:
        takes = self.pooled
        for number, dense in enumerate(self.dense):
            dense.write(folder / self._dense_folder(number), takes, self.seed)
            takes = dense.size
        for size in self.other_sizes:
            replace(self.dense[0], size=size).write(folder / f"2_Dense_{size}", self.pooled, self.seed)

    @property
    def pooled(self) -> int:
        """Dimensions of what the pooling gives."""
        pooling = self.pooling or {}
        modes = pooling.get("pooling_mode", [key for key in pooling if key.startswith("pooling_mode")])
        return self.hidden * (len(modes) if isinstance(modes, list) else 1)

    def _dense_folder(self, number: int) -> str:
        dense = self.dense[number]
        return f"{2 + number}_Dense" + (f"_{dense.size}" if dense.sized else "")

    def _modules(self) -> list[dict[str, Any]]:
        kinds = {
            "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
            "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
            "Dense": "sentence_transformers.base.modules.dense.Dense",
            "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
        }
        places = {"Transformer": "", "Pooling": "1_Pooling"}
        names = ["Transformer", "Pooling", *["Dense"] * len(self.dense), *(["Normalize"] if self.normalize else [])]
        return [
            {
                "idx": index,
                "name": str(index),
                "path": self._dense_folder(index - 2) if name == "Dense" else places.get(name, f"{index}_{name}"),
                "type": kinds[name] if self.new_layout else f"sentence_transformers.models.{name}",
            }
            for index, name in enumerate(names)
        ]


def vocabulary() -> list[str]:
    """Every word of the tiny tokenizer; its place is its id."""
    return [*SPECIAL, *_WORDS.split()]


def word_piece() -> Tokenizer:
    """The tiny tokenizer: BERT's own kind."""
    ids = {word: index for index, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return tokenizer


def save_weights(path: Path, tensors: Tensors) -> None:
    """A safetensors file as torch writes it."""
    save_file(tensors, path, metadata={"format": "pt"})


def write_json(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a linear layer with a bias."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a norm with a bias."""
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _weights(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    values = random.normal(0.0, 0.2, shape)
    is_gain = len(shape) == 1 and name.endswith(".weight")  # the one vector of that name is a norm's
    return values + 1.0 if is_gain else values
