"""A greedy loop over the graph contract, for engines that run graphs and know no text. NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

# The contract's names, written again: these programs can import nothing of ours.
Run = Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]


def greedy(run: Run, cache_shapes: Mapping[str, tuple[int, int]], prompt_ids: list[int], new_tokens: int) -> list[int]:
    """The most likely token, again and again.

    Args:
        run: from inputs by name to outputs by name.
        cache_shapes: name of a cache input -> (num_key_value_heads, head_dim).
        prompt_ids: where it starts.
        new_tokens: how many follow.
    """
    past = {name: np.zeros((1, heads, 0, size), np.float32) for name, (heads, size) in cache_shapes.items()}
    found: list[int] = []
    total, feed = 0, prompt_ids
    while len(found) < new_tokens:
        start, total = total, total + len(feed)
        inputs = {
            "input_ids": np.array([feed], np.int64),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(start, total, dtype=np.int64)[None],
        }
        outputs = run(inputs | past)
        past = {name: np.array(outputs[name.replace("past_key_values", "present")]) for name in past}
        found.append(int(outputs["logits"][0, -1].argmax()))
        feed = found[-1:]
    return found
