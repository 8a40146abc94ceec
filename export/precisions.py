"""How the weights of each precision are made; `runtime/precisions.py` says what the precisions are.

To add one, add its row there and its recipe to `WEIGHTS` here (and a weight format where it needs new operators).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx_ir as ir

from export.calibration import DEFAULT_TOKENS, Calibration
from export.errors import ExportError
from export.mixed_precision import smallest_within
from export.weight_formats import Blockwise, DynamicInt8, Float, Mixed, SecondMoment, WeightFormat
from model import ModelConfig
from runtime.precisions import INT8_CACHE_SUFFIX, PRECISIONS, Precision

# Narrow rows have few blocks to spread an outlier over, and cost little: they get the finer scales.
WIDE_HIDDEN_SIZE = 512
BLOCK_SIZE, NARROW_BLOCK_SIZE = 64, 16
# Four bits need finer scales than eight.
Q4_BLOCK_SIZE = 32
# Of a smaller model two layers are too large a part.
FEWEST_LAYERS_TO_TELL_APART = 12
# Samples that rounding to 4 bits by GPTQ wants (8 bits gain nothing by more than the usual number).
Q4_TOKENS = 16_384
# Nats a token: in the middle between what 8 bits and what 4 bits cost a small model.
DEFAULT_KL_BUDGET = 0.01
VOCABULARY = ("model.embed_tokens", "lm_head")

# From a model and what is known of its activations to the format of its weights.
MakeFormat = Callable[[Calibration], WeightFormat]


@dataclass(frozen=True)
class Recipe:
    """A precision, and how its weights are made.

    Attributes:
        precision: its row.
        make_format: called with what is known of the activations as the weights are seen.
        smoothed: the weights are seen through `SmoothedCheckpoint`.
        tokens: how many the model samples for it, unless the user says.
    """

    precision: Precision
    make_format: MakeFormat
    smoothed: bool = False
    tokens: int = DEFAULT_TOKENS

    @property
    def name(self) -> str:
        """The precision's."""
        return self.precision.name


def int8_block_size(config: ModelConfig) -> int:
    """Weights that share a scale in `int8`."""
    return BLOCK_SIZE if config.hidden_size >= WIDE_HIDDEN_SIZE else NARROW_BLOCK_SIZE


def gptq(calibration: Calibration) -> SecondMoment | None:
    """Rounding by GPTQ, unless the user wants no calibration."""
    return calibration.second_moment if calibration.tokens else None


def _eight_bits(calibration: Calibration) -> Blockwise:
    return Blockwise(int8_block_size(calibration.config), second_moment=gptq(calibration))


def _four_bits(calibration: Calibration) -> Blockwise:
    block_size = min(Q4_BLOCK_SIZE, int8_block_size(calibration.config))
    return Blockwise(block_size, bits=4, second_moment=gptq(calibration))


def _four_bits_where_they_cost_least(calibration: Calibration) -> WeightFormat:
    """4 bits for all layers but the first and the last; those in the middle in larger blocks, to pay for the two.

    The first and the last lose most to rounding. The table has 8 bits too: it is read twice, as embedding and as head,
    whose errors go straight into the logits.
    """
    layers = calibration.config.num_hidden_layers
    eight, four = _eight_bits(calibration), _four_bits(calibration)
    exceptions: dict[str, WeightFormat] = dict.fromkeys(VOCABULARY, eight)
    if layers >= FEWEST_LAYERS_TO_TELL_APART:
        middle = replace(four, block_size=2 * four.block_size)
        exceptions |= {f"model.layers.{layer}.": eight for layer in (0, layers - 1)}
        exceptions |= {f"model.layers.{layer}.": middle for layer in range(-(-layers // 4), layers - layers // 4)}
    return Mixed(four, exceptions)


WEIGHTS: dict[str, MakeFormat] = {
    "fp32": lambda _: Float(),
    "fp16": lambda _: Float(ir.DataType.FLOAT16),
    "int8": _eight_bits,
    "q8": lambda calibration: DynamicInt8(gptq(calibration)),
    "q4": _four_bits_where_they_cost_least,
}

# Floats have no use for it.
SMOOTHED = frozenset(WEIGHTS) - {"fp32", "fp16"}


def automatic(kl_budget: float) -> Recipe:
    """The smallest mixture of the others whose KL divergence stays within a budget, in nats."""

    def make_format(calibration: Calibration) -> WeightFormat:
        candidates = [_four_bits(calibration), _eight_bits(calibration)]
        return smallest_within(calibration, kl_budget, candidates, progress=calibration.progress)

    row = PRECISIONS["auto"]
    row = replace(row, summary=f"{row.summary} of {kl_budget:g} nats")
    return Recipe(row, make_format, smoothed=True, tokens=Q4_TOKENS)


def parse_precisions(names: str, *, kl_budget: float = DEFAULT_KL_BUDGET) -> list[Recipe]:
    """Recipes from a comma-separated list. A precision with a KV cache of int8 brings the one whose weights it shares.

    Args:
        names: such as `fp32,int8-kv8`.
        kl_budget: of `auto`, in nats.

    Raises:
        ExportError: an unknown one; it names those that are known.
    """
    own = {name: Recipe(PRECISIONS[name], make_format, name in SMOOTHED) for name, make_format in WEIGHTS.items()}
    own["q4"] = replace(own["q4"], tokens=Q4_TOKENS)
    own["auto"] = automatic(kl_budget)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in PRECISIONS]
    if unknown or not wanted:
        raise ExportError(
            f"unknown precision {', '.join(unknown) or repr(names)}; there are {', '.join(own)}, and each of them "
            f"with {INT8_CACHE_SUFFIX} behind it for a KV cache of int8"
        )
    with_weights = [name for wish in wanted for name in (PRECISIONS[wish].weights, wish)]
    return [
        own.get(name) or replace(own[PRECISIONS[name].weights], precision=PRECISIONS[name])
        for name in dict.fromkeys(with_weights)
    ]
