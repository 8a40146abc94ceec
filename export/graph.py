"""The decoder as an ONNX graph: `model/transformer.py` and `model/attention.py` again, line by line.

The graph is written, not traced: each line below is a node that runs, so what is read here is what is executed, a
weight is never in memory twice, and a precision chooses its operators at the place where the weight is used. Norms,
SiLU and attention are a set of operators: fused ones (`operators.py`), or standard ones for other engines. That it all
computes what the PyTorch model computes is held by the parity tests and by `python -m export compare`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from export.graph_builder import GraphBuilder
from export.operators import AttentionLayer, FusedOperators, Operators
from export.smoothing import TABLE_SCALE
from export.weight_formats import Weight, WeightFormat
from model import WeightSource
from model.rotary import rotary_angles
from runtime import contract
from runtime.version import VERSION

TO_THE_END = np.iinfo(np.int64).max


def build_graph(
    weights: WeightSource,
    weight_format: WeightFormat,
    on_layer: Callable[[int], None] = lambda _: None,
    *,
    operators: type[Operators] = FusedOperators,
) -> ir.Model:
    """The graph of a model under the contract of `runtime/contract.py`.

    Args:
        weights: where config and tensors come from; float32 weights are read only when the model is saved.
        weight_format: how the linear layers and the vocabulary table are stored and multiplied.
        on_layer: called with the number of each layer that is done.
        operators: the set of operators for everything between the weights.
    """
    return _DecoderGraph(weights, weight_format, operators).build(on_layer)


class _DecoderGraph:
    def __init__(self, weights: WeightSource, weight_format: WeightFormat, operators: type[Operators]) -> None:
        self.weights = weights
        self.config = weights.config
        self.format = weight_format
        self.builder = builder = GraphBuilder("decoder")
        self.input_ids = builder.input(contract.INPUT_IDS, ir.DataType.INT64, [contract.BATCH, contract.SEQUENCE])
        attention_mask = builder.input(contract.ATTENTION_MASK, ir.DataType.INT64, [contract.BATCH, contract.TOTAL])
        self.position_ids = builder.input(contract.POSITION_IDS, ir.DataType.INT64, [contract.BATCH, contract.SEQUENCE])
        angles = None if self.config.has_dynamic_rope else rotary_angles(self.config).numpy()
        self.operators = operators(builder, self.config, attention_mask, self.position_ids, angles)

    def build(self, on_layer: Callable[[int], None]) -> ir.Model:
        builder, config = self.builder, self.config
        table = self._weight("model.embed_tokens")
        residual = self.format.embedding(builder, self.input_ids, table)
        if TABLE_SCALE in self.weights.shapes:
            scale = builder.constant(TABLE_SCALE, self._load(TABLE_SCALE))
            residual = builder.op("Mul", [residual, scale], name="model.embed_tokens/Mul_scale")
        if config.learned_position_embeddings:
            residual = self._add_learned_positions(residual)
        first_norm = "model.layers.0.input_layernorm"
        x = self.operators.norm(residual, self._norm_weight(first_norm), first_norm)
        presents: list[ir.Value] = []
        for layer in range(config.num_hidden_layers):
            prefix = f"model.layers.{layer}"
            attended, present_key, present_value = self._attention(x, layer)
            presents += [present_key, present_value]
            x, residual = self._add_and_norm(residual, attended, f"{prefix}.post_attention_layernorm")
            last = layer + 1 == config.num_hidden_layers
            next_norm = "model.norm" if last else f"model.layers.{layer + 1}.input_layernorm"
            x, residual = self._add_and_norm(residual, self._mlp(x, f"{prefix}.mlp"), next_norm)
            on_layer(layer)
        self._head(x, table)
        self._declare_presents(presents)
        return builder.model("smoltext", VERSION)

    def _attention(self, x: ir.Value, layer: int) -> tuple[ir.Value, ir.Value, ir.Value]:
        config, operators = self.config, self.operators
        prefix = f"model.layers.{layer}.self_attn"
        cache_shape = [contract.BATCH, config.num_key_value_heads, contract.PAST, operators.cache_head_dim(config)]
        past_key, past_value = (
            self.builder.input(name, ir.DataType.FLOAT, cache_shape) for name in contract.past_names(layer)
        )
        if operators.packs_qkv:
            qkv = [self._packed_qkv(x, prefix)]
        else:
            qkv = [self._linear(x, f"{prefix}.{name}_proj") for name in "qkv"]
        attended, present_key, present_value = operators.attention(
            qkv, past_key, past_value, self._attention_layer(layer, prefix)
        )
        return self._linear(attended, f"{prefix}.o_proj"), present_key, present_value

    def _attention_layer(self, layer: int, prefix: str) -> AttentionLayer:
        config, norms = self.config, None
        if config.qk_norm:
            norms = self._norm_weight(f"{prefix}.q_norm"), self._norm_weight(f"{prefix}.k_norm")
        return AttentionLayer(prefix, config.has_rope(layer), config.window(layer), norms)

    def _packed_qkv(self, x: ir.Value, prefix: str) -> ir.Value:
        """One product for queries, keys and values: [batch_size, sequence_length, query + key + value]."""
        parts = [self._weight(f"{prefix}.{name}_proj") for name in "qkv"]
        packed = Weight(
            name=f"{prefix}.qkv_proj",
            out_features=sum(part.out_features for part in parts),
            in_features=self.config.hidden_size,
            load=lambda: np.concatenate([part.load() for part in parts]),
            load_bias=(lambda: np.concatenate([part.load_bias() for part in parts if part.load_bias]))
            if any(part.load_bias for part in parts)
            else None,
        )
        return self.format.linear(self.builder, x, packed)

    def _mlp(self, x: ir.Value, prefix: str) -> ir.Value:
        gate = self._linear(x, f"{prefix}.gate_proj")
        gate = self.operators.silu(gate, prefix)
        gated = self.builder.op("Mul", [gate, self._linear(x, f"{prefix}.up_proj")], name=f"{prefix}/Mul")
        return self._linear(gated, f"{prefix}.down_proj")

    def _head(self, x: ir.Value, table: Weight) -> None:
        builder, config = self.builder, self.config
        # The default is for engines that do not know this input and refuse a graph that asks for it (optimum).
        keep = builder.input(contract.NUM_LOGITS_TO_KEEP, ir.DataType.INT64, [], default=np.array(0, np.int64))
        one_axis = builder.constant("one_axis", np.array([1], np.int64))
        # The last n positions are x[-n:]; and since -0 is 0, n = 0 keeps all.
        start = builder.op("Neg", [keep], name="lm_head/Neg")
        start = builder.op("Reshape", [start, one_axis], name="lm_head/Reshape_start")
        end = builder.constant("to_the_end", np.array([TO_THE_END], np.int64))
        kept = builder.op("Slice", [x, start, end, one_axis], name="lm_head/Slice")
        if config.tie_word_embeddings:
            logits = self.format.tied_head(builder, kept, table)
        else:
            logits = self.format.linear(builder, kept, self._weight("lm_head"))
        builder.output(logits, contract.LOGITS, ir.DataType.FLOAT, [contract.BATCH, "num_logits", config.vocab_size])

    def _declare_presents(self, presents: list[ir.Value]) -> None:
        config = self.config
        shape = [contract.BATCH, config.num_key_value_heads, contract.TOTAL, self.operators.cache_head_dim(config)]
        names = [name for layer in range(config.num_hidden_layers) for name in contract.present_names(layer)]
        for value, name in zip(presents, names, strict=True):
            self.builder.output(value, name, ir.DataType.FLOAT, shape)

    def _add_learned_positions(self, embedded: ir.Value) -> ir.Value:
        name = "model.embed_positions"
        shape = self.weights.shapes[f"{name}.weight"]
        table = self.builder.lazy_constant(f"{name}.weight", shape, self._loader(f"{name}.weight"))
        rows = self.builder.op("Gather", [table, self.position_ids], name=f"{name}/Gather")
        return self.builder.op("Add", [embedded, rows], name=f"{name}/Add")

    def _add_and_norm(self, residual: ir.Value, addend: ir.Value, name: str) -> tuple[ir.Value, ir.Value]:
        return self.operators.add_and_norm(residual, addend, self._norm_weight(name), name)

    def _norm_weight(self, name: str) -> ir.Value:
        return self.builder.constant(f"{name}.weight", self._load(f"{name}.weight"))

    def _linear(self, x: ir.Value, name: str) -> ir.Value:
        return self.format.linear(self.builder, x, self._weight(name))

    def _weight(self, name: str) -> Weight:
        """The matrix of a linear layer or of the vocabulary, with its bias where the model has one."""
        out_features, in_features = self.weights.shapes[f"{name}.weight"]
        load_bias = self._loader(f"{name}.bias") if f"{name}.bias" in self.weights.shapes else None
        return Weight(name, out_features, in_features, self._loader(f"{name}.weight"), load_bias)

    def _loader(self, name: str) -> Callable[[], np.ndarray]:
        return lambda: self._load(name)

    def _load(self, name: str) -> np.ndarray:
        return self.weights.tensor(name).numpy()
