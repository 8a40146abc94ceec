"""onnxruntime-genai: its own loop over genai_config.json, which names one graph; the others are overlaid."""

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai
from answers import Generate, answer


def load(bundle: Path, file: str) -> Generate:
    config = onnxruntime_genai.Config(str(bundle))
    config.overlay(json.dumps({"model": {"decoder": {"filename": file}}}))
    model = onnxruntime_genai.Model(config)

    def generate(prompt_ids: list[int], new_tokens: int) -> list[int]:
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(prompt_ids) + new_tokens)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(np.array([prompt_ids], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return generator.get_sequence(0).tolist()[len(prompt_ids) :]

    return generate


answer(load)
