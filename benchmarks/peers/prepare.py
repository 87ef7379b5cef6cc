"""Makes of the bundled model what the other runtimes read; run in their environment, once: ``make peers``.

The int8 graphs are NNCF's static quantization for transformers (SmoothQuant included), calibrated on prose that no
benchmark measures; sentence-transformers' own helper does the same with a data set that it would have to download.
"""

from __future__ import annotations

import shutil

import nncf
import numpy as np
import openvino
import torch
from openvino import opset13 as ops
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from benchmarks.corpus import prose
from benchmarks.peers import EXPORTED, model_folder
from benchmarks.peers._padding import Tokens

_CALIBRATION_TEXTS = 300


class _Pooled(torch.nn.Module):
    """Token ids to vectors of unit length, as the model's folder asks: mean, then normalise."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Ids (texts, tokens) to (texts, dim)."""
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1)


def main() -> None:
    """Everything, into a fresh folder."""
    shutil.rmtree(EXPORTED, ignore_errors=True)
    EXPORTED.mkdir(parents=True)
    _export_onnx()
    _export_sentence_transformers()
    folder = EXPORTED / "st" / "openvino"
    core = openvino.Core()
    graph = core.read_model(folder / "openvino_model.xml")
    openvino.save_model(_with_pooling(graph.clone()), EXPORTED / "minilm-fp32.xml", compress_to_fp16=False)
    quantized = _quantized(graph)
    openvino.save_model(quantized, folder / "openvino_model_qint8_quantized.xml", compress_to_fp16=False)
    openvino.save_model(_with_pooling(quantized), EXPORTED / "minilm-int8.xml", compress_to_fp16=False)


def _export_onnx() -> None:
    encoder = AutoModel.from_pretrained(str(model_folder()), add_pooling_layer=False)
    ids = torch.ones((2, 16), dtype=torch.int64)
    axes = {0: torch.export.Dim("texts", min=1, max=4096), 1: torch.export.Dim("tokens", min=2, max=512)}
    torch.onnx.export(
        _Pooled(encoder).eval(),
        (ids, torch.ones_like(ids)),
        EXPORTED / "minilm-fp32.onnx",
        input_names=["input_ids", "attention_mask"],
        output_names=["vectors"],
        dynamic_shapes={"input_ids": axes, "attention_mask": axes},
        dynamo=True,
        external_data=False,
    )


def _export_sentence_transformers() -> None:
    model = SentenceTransformer(str(model_folder()), backend="openvino", device="cpu")
    model.save_pretrained(str(EXPORTED / "st"))


def _with_pooling(graph: openvino.Model) -> openvino.Model:
    """The same graph with mean and normalisation at its end, and the inputs that we have."""
    tokens = graph.output(0).get_node().input_value(0)
    inputs = {port.get_any_name(): port.get_node() for port in graph.inputs}
    mask = ops.unsqueeze(ops.convert(inputs["attention_mask"], "f32"), ops.constant(np.int64(2)))
    axis = ops.constant(np.int64(1))
    total = ops.reduce_sum(ops.multiply(tokens, mask), axis)
    vectors = ops.normalize_l2(ops.divide(total, ops.reduce_sum(mask, axis)), axis, 1e-12, "max")
    if "token_type_ids" in inputs:
        kind = inputs.pop("token_type_ids")
        shape = ops.shape_of(inputs["input_ids"])
        zeros = ops.broadcast(ops.constant(np.int64(0)), shape)
        kind.output(0).replace(zeros.output(0))
    return openvino.Model([vectors], list(inputs.values()), "minilm")


def _quantized(graph: openvino.Model) -> openvino.Model:
    tokens = Tokens()
    names = {port.get_any_name() for port in graph.inputs}

    def inputs(text: str) -> dict[str, object]:
        batch = tokens.one(text)
        given = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": np.zeros_like(batch.ids)}
        return {name: array for name, array in given.items() if name in names}

    texts = list(prose()[-_CALIBRATION_TEXTS:])
    return nncf.quantize(
        graph,
        nncf.Dataset(texts, inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=_CALIBRATION_TEXTS,
    )


if __name__ == "__main__":
    main()
