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
    from runtime.engine.scheduler import Scheduler
    from runtime.engine.sequence import Request
    from runtime.engine.session import DecoderSession
    from runtime.generation.generate import generate_batch, generate_step
    from runtime.generation.text_delta import Generation, TextDelta
    from runtime.language_model import LanguageModel
    from runtime.sampling.logprobs import SampledToken
    from runtime.sampling.options import SamplingOptions

# Loaded on first use: `python -m runtime --help` must not wait for onnxruntime.
_HOMES = {
    "Bundle": "runtime.bundle",
    "ChatSession": "runtime.chat_session",
    "DecoderSession": "runtime.engine.session",
    "Generation": "runtime.generation.text_delta",
    "LanguageModel": "runtime.language_model",
    "PromptCache": "runtime.engine.prompt_cache",
    "Request": "runtime.engine.sequence",
    "SampledToken": "runtime.sampling.logprobs",
    "SamplingOptions": "runtime.sampling.options",
    "Scheduler": "runtime.engine.scheduler",
    "TextDelta": "runtime.generation.text_delta",
    "generate_batch": "runtime.generation.generate",
    "generate_step": "runtime.generation.generate",
}

__all__ = [
    "Bundle",
    "ChatSession",
    "DecoderSession",
    "Generation",
    "LanguageModel",
    "PromptCache",
    "Request",
    "SampledToken",
    "SamplingOptions",
    "Scheduler",
    "TextDelta",
    "generate_batch",
    "generate_step",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
