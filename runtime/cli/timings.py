"""What a generation cost, in a line for people."""

from __future__ import annotations

from runtime.generation.text_delta import Generation
from runtime.language_model import LanguageModel


def timings(result: Generation, model: LanguageModel) -> str:
    """Tokens and speeds of prompt and answer, the context used, and why the text ended."""
    used, context = result.prompt_tokens + result.new_tokens, model.session.shape.max_position_embeddings
    cached = f" ({result.cached_tokens:,} known)" if result.cached_tokens else ""
    first = f"first token after {result.time_to_first_token_seconds:.2f} s"
    return (
        f"[prompt: {result.prompt_tokens:,} tokens{cached}, {first}; "
        f"new: {result.new_tokens:,} tokens at {result.decode_tokens_per_second:.1f} tokens/s; "
        f"context: {used:,} of {context:,}; {model.session.precision}; ended by {result.finish_reason}]"
    )
