"""Generation on a CPU with NumPy, onnxruntime and tokenizers; no torch.

>>> from runtime import LanguageModel
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.batching import Request, generate_batch
    from runtime.bundle import Bundle
    from runtime.chat_session import ChatSession
    from runtime.chunk import Chunk, Generation
    from runtime.generate import generate_step
    from runtime.language_model import LanguageModel
    from runtime.prompt_cache import PromptCache
    from runtime.sampling_options import SamplingOptions
    from runtime.session import DecoderSession

# Loaded on first use: `python -m runtime --help` must not wait for onnxruntime.
_HOMES = {
    "Bundle": "runtime.bundle",
    "ChatSession": "runtime.chat_session",
    "Chunk": "runtime.chunk",
    "DecoderSession": "runtime.session",
    "Generation": "runtime.chunk",
    "LanguageModel": "runtime.language_model",
    "PromptCache": "runtime.prompt_cache",
    "Request": "runtime.batching",
    "SamplingOptions": "runtime.sampling_options",
    "generate_batch": "runtime.batching",
    "generate_step": "runtime.generate",
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
