"""llama.cpp through llama-cpp-python: MODEL is a GGUF file."""

import ctypes
import sys

import llama_cpp
import numpy as np
from protocol import serve


@llama_cpp.llama_log_callback
def quiet(_level, _text, _data):
    """Its log would drown ours."""


llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()
model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), llama_cpp.llama_model_default_params())
parameters = llama_cpp.llama_context_default_params()
parameters.n_ctx = parameters.n_batch = 2048
parameters.n_ubatch = 512
parameters.n_threads = parameters.n_threads_batch = int(sys.argv[2])
context = llama_cpp.llama_init_from_model(model, parameters)
vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))


def generate(prompt, count, on_token):
    """Greedily."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    ids = prompt
    for _ in range(count):
        tokens = (llama_cpp.llama_token * len(ids))(*ids)  # the batch holds no more than its address
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(ids))):
            raise SystemExit("llama_decode failed")
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), shape=(vocab_size,))
        ids = [int(logits.argmax())]
        on_token()


serve(generate)
