"""The names, axes and dtypes of the ONNX graph's inputs and outputs, and how it is opened: the one place for them.

One graph serves prefill and decode. transformers.js makes its empty cache from the axis words, so they are part of
the contract: a batch axis of any other name would become zero there.
"""

from __future__ import annotations

import numpy as np

INPUT_IDS = "input_ids"  # int64 [batch_size, sequence_length]
ATTENTION_MASK = "attention_mask"  # int64 [batch_size, total_sequence_length]; ones, then zeros for right padding
POSITION_IDS = "position_ids"  # int64 [batch_size, sequence_length]
NUM_LOGITS_TO_KEEP = "num_logits_to_keep"  # int64 scalar, 0 if not given; 0 = every position, n = the last n
LOGITS = "logits"  # float32 [batch_size, num_logits_to_keep or sequence_length, vocab_size]

BATCH = "batch_size"
SEQUENCE = "sequence_length"  # new tokens
PAST = "past_sequence_length"  # cached tokens, or the cache's capacity when past and present are one buffer
TOTAL = "total_sequence_length"  # cached and new tokens

# A cache tensor is [batch_size, num_key_value_heads, past_sequence_length, head_dim], of one of these dtypes: float32,
# or int8 where the graph has the scales.
CacheDtype = type[np.float32] | type[np.int8]
CACHE_DTYPES: dict[str, CacheDtype] = {"tensor(float)": np.float32, "tensor(int8)": np.int8}


def past_names(layer: int | str) -> tuple[str, str]:
    """The cache inputs of one layer (its number, or a placeholder for it): key, value."""
    return f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"


def present_names(layer: int | str) -> tuple[str, str]:
    """The cache outputs of one layer (its number, or a placeholder for it): key, value."""
    return f"present.{layer}.key", f"present.{layer}.value"
