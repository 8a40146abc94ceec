"""The precisions that a bundle can hold. To add one, add a line here (and a format where it needs new operators)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from export.errors import ExportError
from export.weight_formats import Blockwise, DynamicInt8, Float, Mixed, WeightFormat
from model import ModelConfig
from runtime.bundle import PRECISION_FILES

# Narrow rows have few blocks to spread an outlier over, and cost little: they get the finer scales.
WIDE_HIDDEN_SIZE = 512
BLOCK_SIZE, NARROW_BLOCK_SIZE = 64, 16
# Four bits need finer scales than eight.
Q4_BLOCK_SIZE = 32


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


def _four_bits(config: ModelConfig) -> WeightFormat:
    """The table keeps 8 bits: it is read twice, as embedding and as head, whose errors go straight into the logits."""
    table = Blockwise(int8_block_size(config))
    return Mixed(
        Blockwise(min(Q4_BLOCK_SIZE, int8_block_size(config)), bits=4), {"embed_tokens": table, "lm_head": table}
    )


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", "32-bit floats: the reference", lambda _: Float()),
        Precision("fp16", "16-bit floats on disk, computed as 32-bit ones", lambda _: Float(ir.DataType.FLOAT16)),
        Precision(
            "int8",
            "8-bit weights, one scale a block, activations quantized a block at a time (MatMulNBits): the default",
            lambda config: Blockwise(int8_block_size(config)),
        ),
        Precision(
            "q8",
            "8-bit weights, one scale a channel, activations quantized a tensor (where it matters a token) at a time "
            "(onnxruntime's dynamic quantization): fastest prefill",
            lambda _: DynamicInt8(),
        ),
        Precision(
            "q4",
            "4-bit weights, one scale a block; the vocabulary table in 8 bits: the smallest",
            _four_bits,
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
