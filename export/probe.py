"""A graph opened bare: ragged batches go in, and values from its inside come out.

`runtime.engine.session` runs one sequence and returns logits alone; comparison and calibration need more. The cache is
copied at every call, so this is slow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from runtime import contract
from runtime.bundle import ModelShape
from runtime.engine.exact_products import exact_product_options

# Nodes that add to the residual stream, fused with the norm after them or not: their first input is the stream before,
# their last output the stream after.
ADDING = re.compile(r"model\.(layers\.\d+\.\w+_layernorm|norm)/(AddRMSNorm|Add)")
ERRORS_ONLY = 3


class GraphProbe:
    """An ONNX file with some of its inner values made outputs; the file itself is left alone.

    Args:
        path: the graph.
        shape: sizes of the model.
        watched: names of inner float32 values, each [batch_size, sequence_length, hidden_size].
    """

    def __init__(self, path: Path, shape: ModelShape, watched: Sequence[str] = ()) -> None:
        model = ir.load(path)
        values = {value.name: value for node in model.graph for value in node.outputs}
        for name in watched:
            values[name].type = ir.TensorType(ir.DataType.FLOAT)
            model.graph.outputs.append(values[name])
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        for entry in exact_product_options().items():
            options.add_session_config_entry(*entry)
        # The weights stay where they are, beside the original.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        content = ir.to_proto(model).SerializeToString()
        self._cache_dtype = next(v.dtype.numpy() for v in model.graph.inputs if v.name == contract.past_names(0)[0])
        self._session = ort.InferenceSession(content, options, ["CPUExecutionProvider"])
        self._shape = shape
        self._outputs = [contract.LOGITS, *watched]

    def run(self, rows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        """Run sequences side by side from an empty cache, the shorter ones padded on the right.

        Returns:
            The logits, [batch_size, sequence_length, vocab_size], and the watched values, by name. What stands at
            padded positions means nothing.
        """
        longest = max(len(row) for row in rows)
        input_ids, mask = (np.zeros((len(rows), longest), np.int64) for _ in range(2))
        for number, row in enumerate(rows):
            input_ids[number, : len(row)], mask[number, : len(row)] = row, 1
        shape = self._shape
        empty = np.zeros((len(rows), shape.num_key_value_heads, 0, shape.head_dim), self._cache_dtype)
        layers = range(shape.num_hidden_layers)
        feeds = {name: empty for layer in layers for name in contract.past_names(layer)} | {
            contract.INPUT_IDS: input_ids,
            contract.ATTENTION_MASK: mask,
            contract.POSITION_IDS: np.tile(np.arange(longest), (len(rows), 1)),
            contract.NUM_LOGITS_TO_KEEP: np.array(0, np.int64),
        }
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))


def residual_names(path: Path) -> list[str] | None:
    """The values of the residual stream: after the embedding, and after every attention and MLP.

    None for a graph that was not built by `export/graph.py`, where they cannot be told from others.
    """
    nodes = [node for node in ir.load(path).graph if ADDING.fullmatch(node.name or "")]
    if not nodes:
        return None
    return [str(nodes[0].inputs[0].name), *(str(node.outputs[-1].name) for node in nodes)]
