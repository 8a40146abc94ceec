"""Options, written briefly."""

from __future__ import annotations

from typing import Any

from runtime import SamplingOptions


def greedy(**options: Any) -> SamplingOptions:
    """The likeliest token each time, and these options."""
    return SamplingOptions(temperature=0, **options)


def endless(**options: Any) -> SamplingOptions:
    """Greedy, and without a stop token: random weights would draw one anywhere."""
    return greedy(stop_token_ids=(), **options)


def token_ids(tokens):
    """The ids of sampled tokens."""
    return [token.token_id for token in tokens]
