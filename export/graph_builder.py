"""A thin layer over onnx_ir: nodes with names one can read in a profile, constants stored once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

MICROSOFT = "com.microsoft"
# 21 is the newest opset that every runtime which our bundles meet has shipped kernels for; IR 10 goes with it.
OPSET = 21
IR_VERSION = 10


class GraphBuilder:
    """Collects nodes and initializers in order and makes a model of them."""

    def __init__(self, name: str) -> None:
        self.graph = ir.Graph([], [], nodes=[], name=name, opset_imports={"": OPSET})

    def input(
        self, name: str, dtype: ir.DataType, shape: Sequence[int | str], *, default: np.ndarray | None = None
    ) -> ir.Value:
        """Declare a graph input; strings name dynamic axes. One that has a default need not be fed."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        if default is not None:
            value.const_value = ir.tensor(default, name=name)
            self.graph.register_initializer(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> None:
        """Declare a value to be a graph output under this name."""
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        self.graph.outputs.append(value)

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        name: str,
        domain: str = "",
        outputs: int = 1,
        **attributes: Any,
    ) -> Any:
        """Append a node. Returns its output, or a list of them when `outputs` > 1. None is an omitted input."""
        node = ir.node(op_type, inputs, attributes=attributes, domain=domain, num_outputs=outputs, name=name)
        for number, value in enumerate(node.outputs):
            value.name = f"{name}/output_{number}"
        self.graph.append(node)
        return node.outputs[0] if outputs == 1 else list(node.outputs)

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """An initializer from numbers at hand; the same name gives the same initializer again."""
        return self._initializer(name, lambda: ir.tensor(np.ascontiguousarray(array), name=name))

    def once(self, op_type: str, inputs: Sequence[ir.Value | None], *, name: str, **attributes: Any) -> ir.Value:
        """`op`, but the node of this name that is there already if there is one."""
        known: ir.Value | None = next((node.outputs[0] for node in self.graph if node.name == name), None)
        return known if known is not None else self.op(op_type, inputs, name=name, **attributes)

    def lazy_constant(
        self,
        name: str,
        shape: Sequence[int],
        load: Callable[[], np.ndarray],
        dtype: ir.DataType = ir.DataType.FLOAT,
    ) -> ir.Value:
        """An initializer of floats whose numbers are read when the file is written, so that they never pile up."""

        def tensor() -> ir.LazyTensor:
            return ir.LazyTensor(
                lambda: ir.tensor(np.ascontiguousarray(load(), dtype.numpy()), name=name),
                dtype=dtype,
                shape=ir.Shape(shape),
                name=name,
            )

        return self._initializer(name, tensor)

    def _initializer(self, name: str, make: Callable[[], ir.TensorProtocol]) -> ir.Value:
        if name not in self.graph.initializers:
            tensor = make()
            value = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor
            )
            self.graph.register_initializer(value)
        return self.graph.initializers[name]

    def model(self, producer: str, version: str) -> ir.Model:
        """The finished model; it asks for onnxruntime's operators only where it has some."""
        self.graph.opset_imports.update({node.domain: 1 for node in self.graph if node.domain})
        return ir.Model(self.graph, ir_version=IR_VERSION, producer_name=producer, producer_version=version)
