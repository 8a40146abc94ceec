"""The precisions that a bundle can hold. To add one, add a line here (and a format where it needs new operators)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx_ir as ir

from export.calibration import Calibration
from export.errors import ExportError
from export.mixed_precision import smallest_within
from export.weight_formats import Blockwise, DynamicInt8, Float, Mixed, WeightFormat
from model import ModelConfig
from runtime.bundle import INT8_CACHE, PRECISION_FILES

# Narrow rows have few blocks to spread an outlier over, and cost little: they get the finer scales.
WIDE_HIDDEN_SIZE = 512
BLOCK_SIZE, NARROW_BLOCK_SIZE = 64, 16
# Four bits need finer scales than eight.
Q4_BLOCK_SIZE = 32
# Nats a token: in the middle between what 8 bits and what 4 bits cost a small model.
DEFAULT_KL_BUDGET = 0.01
VOCABULARY = ("model.embed_tokens", "lm_head")


@dataclass(frozen=True)
class Precision:
    """A named way to store the weights.

    Attributes:
        name: as users type it; `runtime.bundle.PRECISION_FILES` has its file.
        summary: one line for the model card.
        make_format: from a model, and what is known of its activations, to its weight format.
    """

    name: str
    summary: str
    make_format: Callable[[Calibration], WeightFormat]

    @property
    def file(self) -> str:
        """The file's name within `onnx/`."""
        return PRECISION_FILES[self.name]

    @property
    def has_int8_cache(self) -> bool:
        """Whether it is another one's graph again, with a KV cache of int8."""
        return self.name.endswith(INT8_CACHE)

    @property
    def weights(self) -> str:
        """The precision whose weights it has."""
        return self.name.removesuffix(INT8_CACHE)


def int8_block_size(config: ModelConfig) -> int:
    """Weights that share a scale in `int8`."""
    return BLOCK_SIZE if config.hidden_size >= WIDE_HIDDEN_SIZE else NARROW_BLOCK_SIZE


def _eight_bits(calibration: Calibration) -> Blockwise:
    return Blockwise(int8_block_size(calibration.config))


def _four_bits(calibration: Calibration) -> Blockwise:
    block_size = min(Q4_BLOCK_SIZE, int8_block_size(calibration.config))
    return Blockwise(block_size, bits=4, second_moment=calibration.second_moment if calibration.tokens else None)


def _four_bits_below_the_head(calibration: Calibration) -> WeightFormat:
    """The table keeps 8 bits: it is read twice, as embedding and as head, whose errors go straight into the logits."""
    return Mixed(_four_bits(calibration), dict.fromkeys(VOCABULARY, _eight_bits(calibration)))


def automatic(kl_budget: float) -> Precision:
    """The smallest mixture of the others whose KL divergence stays within a budget, in nats."""
    summary = (
        f"4 bits, 8 bits or floats for each layer's attention and MLP: the smallest with a KL within {kl_budget:g}"
    )

    def make_format(calibration: Calibration) -> WeightFormat:
        ladder = [_four_bits(calibration), _eight_bits(calibration)]
        return smallest_within(calibration, kl_budget, ladder, progress=calibration.progress)

    return Precision("auto", summary, make_format)


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", "32-bit floats: the reference", lambda _: Float()),
        Precision("fp16", "16-bit floats on disk, computed as 32-bit ones", lambda _: Float(ir.DataType.FLOAT16)),
        Precision(
            "int8",
            "8-bit weights, one scale a block, activations quantized a block at a time (MatMulNBits): the default",
            _eight_bits,
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
            _four_bits_below_the_head,
        ),
    )
}


def parse_precisions(names: str, *, kl_budget: float = DEFAULT_KL_BUDGET) -> list[Precision]:
    """Precisions from a comma-separated list; `auto` within a budget; before int8-kv8 and the like comes int8.

    Raises:
        ExportError: an unknown one; it names those that are known.
    """
    known = PRECISIONS | {"auto": automatic(kl_budget)}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name.removesuffix(INT8_CACHE) not in known]
    if unknown or not wanted:
        raise ExportError(
            f"unknown precision {', '.join(unknown) or repr(names)}; there are {', '.join(known)}, and each of them "
            f"with {INT8_CACHE} behind it for a KV cache of int8"
        )
    known |= {f"{name}{INT8_CACHE}": _with_int8_cache(precision) for name, precision in known.items()}
    with_weights = [name for wish in wanted for name in (wish.removesuffix(INT8_CACHE), wish)]
    return [known[name] for name in dict.fromkeys(with_weights)]


def _with_int8_cache(precision: Precision) -> Precision:
    summary = f"the weights of {precision.name} with a KV cache of 8 bits: longer texts take less memory and time"
    return replace(precision, name=f"{precision.name}{INT8_CACHE}", summary=summary)
