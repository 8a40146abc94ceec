"""Generation on a CPU with NumPy, onnxruntime and tokenizers; no torch.

>>> from runtime import LanguageModel
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from runtime.chat_session import ChatSession
    from runtime.engine.prompt_cache import PromptCache
    from runtime.engine.session import DecoderSession
    from runtime.generation.batching import Request, generate_batch
    from runtime.generation.chunk import Chunk, Generation
    from runtime.generation.generate import generate_step
    from runtime.language_model import LanguageModel
    from runtime.sampling.options import SamplingOptions

# Loaded on first use: `python -m runtime --help` must not wait for onnxruntime.
_HOMES = {
    "Bundle": "runtime.bundle",
    "ChatSession": "runtime.chat_session",
    "Chunk": "runtime.generation.chunk",
    "DecoderSession": "runtime.engine.session",
    "Generation": "runtime.generation.chunk",
    "LanguageModel": "runtime.language_model",
    "PromptCache": "runtime.engine.prompt_cache",
    "Request": "runtime.generation.batching",
    "SamplingOptions": "runtime.sampling.options",
    "generate_batch": "runtime.generation.batching",
    "generate_step": "runtime.generation.generate",
}

__all__ = [
    "Bundle",
    "ChatSession",
    "Chunk",
    "DecoderSession",
    "Generation",
    "LanguageModel",
    "PromptCache",
    "Request",
    "SamplingOptions",
    "generate_batch",
    "generate_step",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
