"""onnx's ReferenceEvaluator: every operator in plain NumPy, as the standard defines it."""

from pathlib import Path

import onnx
from answers import Generate, answer
from contract_loop import greedy
from onnx.reference import ReferenceEvaluator


def load(bundle: Path, file: str) -> Generate:
    model = onnx.load(bundle / file)
    evaluator = ReferenceEvaluator(model)
    names = [output.name for output in model.graph.output]
    shapes = {}
    for graph_input in model.graph.input:
        if graph_input.name.startswith("past"):
            sizes = graph_input.type.tensor_type.shape.dim
            shapes[graph_input.name] = sizes[1].dim_value, sizes[3].dim_value

    def run(inputs: dict) -> dict:
        return dict(zip(names, evaluator.run(None, inputs), strict=True))

    return lambda prompt_ids, new_tokens: greedy(run, shapes, prompt_ids, new_tokens)


answer(load)
