"""onnxruntime-genai: MODEL is a folder with genai_config.json."""

import json
import sys

import numpy as np
import onnxruntime_genai as og
from protocol import serve

config = og.Config(sys.argv[1])
options = {"intra_op_num_threads": int(sys.argv[2]), "inter_op_num_threads": 1}
# An id that no random prompt leads to soon: generation must not stop early.
config.overlay(json.dumps({"model": {"eos_token_id": [49151], "decoder": {"session_options": options}}}))
model = og.Model(config)


def generate(prompt, count, on_token):
    """Greedily."""
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + count + 1, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(np.array([prompt], np.int32))
    for _ in range(count):
        generator.generate_next_token()
        on_token()


serve(generate)
