"""The precisions: one row each, with every property that the rest of the project asks for.

To add a precision, add a row here and a recipe for its weights in `export/precisions.py`. Nothing else depends on a
precision's name. For `row = PRECISIONS[name]`:

- `row.file`, `row.weights`, `row.has_int8_cache`: where its graph and its weights are, and what its KV cache holds.
- `row.batch_invariant`, `row.can_be_batch_invariant`, `row.independent_rows`, `row.rounding_is_harmless`: whether a
  session may reuse prefixes, run rows together and check guessed tokens without changing what is generated.
- `row.limits_at(parameters)`, `row.colour`, `row.summary`: for the comparison, its report, the help and the model card.

`batch_invariant_names()` lists those to recommend where batch invariance is needed. Importing this module loads nothing
but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

INT8_CACHE_SUFFIX = "-kv8"
# Below this, a model has less to spare: a toy loses more to the same rounding than a model in use.
SMALL_MODEL_PARAMETERS = 50_000_000


@dataclass(frozen=True)
class Limits:
    """How far a precision may lie from its reference before `export compare` fails.

    Attributes:
        max_kl: KL(reference || precision), nats per token.
        min_top1: share of positions at which both have the same likeliest token.
        max_perplexity_change: relative, in either direction.
    """

    max_kl: float
    min_top1: float
    max_perplexity_change: float


@dataclass(frozen=True)
class Precision:
    """A named way to store the weights and the KV cache of a graph.

    Attributes:
        name: as users type it.
        file: the graph's name within `onnx/`; transformers.js and optimum look for these.
        summary: one line for the help and the model card.
        colour: in the comparison's report, as CSS.
        limits: of a comparison, unless the user sets others.
        small_model_limits: the same below `SMALL_MODEL_PARAMETERS`, where quantization costs more; None for `limits`.
        batch_invariant: logits are the same bits however tokens are grouped into passes.
        can_be_batch_invariant: a session can make it so by never running a single row alone.
        rounding_is_harmless: a difference in the last bits of an activation stays that small. Where activations or the
            cache are quantized, it can move a value by a whole step.
        has_integer_products: its products are of 8-bit integers, which overflow on an x86 CPU without VNNI unless a
            session asks for exact ones (`runtime/engine/exact_products.py`).
        independent_rows: a sequence has the same logits, to the bit, whatever others share its passes.
        weights_from: the precision whose weights it shares, with a KV cache of int8 in place of its float32 one; None
            for a precision with weights of its own.
    """

    name: str
    file: str
    summary: str
    colour: str
    limits: Limits
    batch_invariant: bool = False
    can_be_batch_invariant: bool = True
    rounding_is_harmless: bool = False
    has_integer_products: bool = False
    independent_rows: bool = False
    weights_from: str | None = None
    small_model_limits: Limits | None = None

    def limits_at(self, parameters: int | None) -> Limits:
        """The limits for a model of this many parameters; None for an unknown number, which gets the wider ones."""
        is_small = parameters is None or parameters < SMALL_MODEL_PARAMETERS
        return self.small_model_limits or self.limits if is_small else self.limits

    @property
    def has_int8_cache(self) -> bool:
        """Whether the KV cache is int8, with its scales in the graph; else it is float32."""
        return self.weights_from is not None

    @property
    def weights(self) -> str:
        """The precision whose weights it reads, which may be itself."""
        return self.weights_from or self.name

    def with_int8_cache(
        self,
        colour: str,
        limits: Limits,
        *,
        small_model_limits: Limits | None = None,
        batch_invariant: bool = False,
    ) -> Precision:
        """The same weights with a KV cache of int8: int8-kv8, in `model_int8_kv8.onnx`."""
        return replace(
            self,
            name=f"{self.name}{INT8_CACHE_SUFFIX}",
            file=self.file.replace(".onnx", "_kv8.onnx"),
            summary=f"the weights of {self.name} with a KV cache of 8 bits: longer texts take less memory and time",
            colour=colour,
            limits=limits,
            small_model_limits=small_model_limits,
            batch_invariant=batch_invariant,
            rounding_is_harmless=False,
            weights_from=self.name,
        )


# The limits hold for a correct export even of models below a million parameters, where quantization costs most. A wrong
# scale, a dropped bias or another model's weights exceed them by far.
_FEW_BITS = Limits(0.3, 0.7, 0.3)
# Heads of 8 features lose much to an int8 cache; those of 64 next to nothing.
_INT8_CACHE = Limits(0.03, 0.9, 0.03)

_INT8 = Precision(
    "int8",
    "model_int8.onnx",
    "8-bit weights, one scale a block, activations quantized a block at a time (MatMulNBits): the default",
    "#2563eb",
    Limits(0.01, 0.9, 0.01),
    independent_rows=True,
)
_Q8 = Precision(
    "q8",
    "model_quantized.onnx",
    "8-bit weights, one scale a channel, activations quantized a tensor (where it matters a token) at a time "
    "(onnxruntime's dynamic quantization): fastest prefill, less faithful than int8",
    "#d97706",
    Limits(0.05, 0.85, 0.05),
    small_model_limits=Limits(0.02, 0.9, 0.02),
    can_be_batch_invariant=False,  # all tokens of a pass share the scale of an activation
    has_integer_products=True,
)
_Q4 = Precision(
    "q4",
    "model_q4.onnx",
    "4-bit weights, one scale a block; the vocabulary table in 8 bits: the smallest",
    "#dc2626",
    _FEW_BITS,
)
_AUTO = Precision(
    "auto",
    "model_auto.onnx",
    "4 bits, 8 bits or floats for each layer's attention and MLP: the smallest mixture within a KL budget",
    "#7c3aed",
    _FEW_BITS,
)
_FP16 = Precision(
    "fp16",
    "model_fp16.onnx",
    "16-bit floats on disk, computed as 32-bit ones",
    "#0d9488",
    Limits(1e-3, 0.98, 0.002),
    rounding_is_harmless=True,
)
_FP32 = Precision(
    "fp32",
    "model.onnx",
    "32-bit floats: the reference",
    "#6b7280",
    Limits(1e-5, 0.99, 1e-4),
    rounding_is_harmless=True,
)

# Name -> row, in the order of preference: the first one that a bundle has is its default.
PRECISIONS = {
    row.name: row
    for row in (
        _INT8,
        _Q8,
        _Q4,
        _AUTO,
        _FP16,
        _FP32,
        # Attention over an int8 cache rounds one row as it rounds several, and so do products of 8-bit blocks.
        _INT8.with_int8_cache("#0891b2", _INT8_CACHE, batch_invariant=True),
        _Q8.with_int8_cache("#a16207", Limits(0.06, 0.85, 0.06)),
        _Q4.with_int8_cache("#db2777", _FEW_BITS),
        _AUTO.with_int8_cache("#c084fc", _FEW_BITS),
        _FP16.with_int8_cache("#059669", _INT8_CACHE),
        _FP32.with_int8_cache("#111827", _INT8_CACHE),
    )
}


def batch_invariant_names() -> list[str]:
    """Precisions whose logits never depend on how tokens are grouped into passes."""
    return [row.name for row in PRECISIONS.values() if row.batch_invariant]
