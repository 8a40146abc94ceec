"""OpenVINO's CPU plugin on the ONNX file as it is, in 32-bit floats."""

from pathlib import Path

import openvino
from answers import Generate, answer
from contract_loop import greedy

# Its defaults would round what the graph computes in floats: to bfloat16 where the CPU can, and matrices by groups.
AS_WRITTEN = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}


def load(bundle: Path, file: str) -> Generate:
    compiled = openvino.Core().compile_model(bundle / file, "CPU", AS_WRITTEN)
    shapes = {}
    for port in compiled.inputs:
        if port.any_name.startswith("past"):
            shapes[port.any_name] = port.partial_shape[1].get_length(), port.partial_shape[3].get_length()
    request = compiled.create_infer_request()

    def run(inputs: dict) -> dict:
        results = request.infer(inputs)
        return {name: results[port] for port in compiled.outputs for name in port.names}

    return lambda prompt_ids, new_tokens: greedy(run, shapes, prompt_ids, new_tokens)


answer(load)
