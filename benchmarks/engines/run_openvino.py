"""OpenVINO GenAI: MODEL is a folder that optimum-intel exported."""

import sys

import numpy as np
import openvino as ov
import openvino_genai as og
from protocol import serve

scheduler = og.SchedulerConfig()
scheduler.enable_prefix_caching = False  # every prompt is new, and must be computed
scheduler.cache_size = 1  # GB
scheduler.max_num_batched_tokens = 2048
pipeline = og.LLMPipeline(
    sys.argv[1], "CPU", INFERENCE_NUM_THREADS=int(sys.argv[2]), ATTENTION_BACKEND="PA", scheduler_config=scheduler
)


class Streamer(og.StreamerBase):
    """Tells of each token."""

    def __init__(self, on_token):
        super().__init__()
        self.on_token = on_token

    def write(self, tokens):
        """One token, or a list of them."""
        for _ in tokens if isinstance(tokens, list) else [tokens]:
            self.on_token()
        return og.StreamingStatus.RUNNING

    def end(self):
        """Nothing is left to tell."""


def generate(prompt, count, on_token):
    """Greedily."""
    config = og.GenerationConfig()
    config.max_new_tokens = count
    config.ignore_eos = True
    config.do_sample = False
    config.apply_chat_template = False
    ids = np.array([prompt], np.int64)
    pipeline.generate(og.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids))), config, Streamer(on_token))


serve(generate)
