"""The precisions that a bundle can hold. To add one, add a line here (and a format where it needs new operators)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from export.errors import ExportError
from export.weight_formats import BlockwiseInt8, DynamicInt8, Float32, WeightFormat
from model import ModelConfig
from runtime.bundle import PRECISION_FILES

DEFAULT_PRECISIONS = ("fp32", "int8", "q8")
# Narrow rows have few blocks to spread an outlier over, and cost little: they get the finer scales.
WIDE_HIDDEN_SIZE = 512
BLOCK_SIZE, NARROW_BLOCK_SIZE = 64, 16


@dataclass(frozen=True)
class Precision:
    """A named way to store the weights.

    Attributes:
        name: as users type it; `runtime.bundle.PRECISION_FILES` has its file.
        summary: one line for the model card.
        make_format: from a model's config to its weight format.
    """

    name: str
    summary: str
    make_format: Callable[[ModelConfig], WeightFormat]

    @property
    def file(self) -> str:
        """The file's name within `onnx/`."""
        return PRECISION_FILES[self.name]


def int8_block_size(config: ModelConfig) -> int:
    """Weights that share a scale in `int8`."""
    return BLOCK_SIZE if config.hidden_size >= WIDE_HIDDEN_SIZE else NARROW_BLOCK_SIZE


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", "32-bit floats: the reference", lambda _: Float32()),
        Precision(
            "int8",
            "8-bit weights, one scale a block, activations quantized a block at a time (MatMulNBits): the default",
            lambda config: BlockwiseInt8(int8_block_size(config)),
        ),
        Precision(
            "q8",
            "8-bit weights, one scale a channel, activations quantized a tensor (where it matters a token) at a time "
            "(onnxruntime's dynamic quantization): fastest prefill",
            lambda _: DynamicInt8(),
        ),
    )
}


def parse_precisions(names: str) -> list[Precision]:
    """Precisions from a comma-separated list. Raises ExportError, naming the known ones."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in PRECISIONS]
    if unknown or not wanted:
        raise ExportError(f"unknown precision {', '.join(unknown) or repr(names)}; there are {', '.join(PRECISIONS)}")
    return [PRECISIONS[name] for name in dict.fromkeys(wanted)]
