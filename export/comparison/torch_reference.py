"""The PyTorch model as the reference of a comparison. The one file of the comparison that needs torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from model import TransformerModel


class TorchReference:
    """A float32 model in eval mode, which implements `export.comparison.reference.Reference`."""

    name = "PyTorch"

    def __init__(self, model: TransformerModel) -> None:
        self.vocab_size = model.config.vocab_size
        self._model = model

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """float32 [len(token_ids), vocab_size]."""
        return self._model(torch.tensor([list(token_ids)]))[0].numpy()

    def greedy(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """The likeliest continuation."""
        return self._model.generate(torch.tensor(list(prompt)), max_new_tokens=max_new_tokens)

    @contextmanager
    def using_threads(self, threads: int) -> Iterator[None]:
        """Set torch's threads, and set them back."""
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def residuals(self, token_ids: Sequence[int]) -> list[np.ndarray]:
        """Caught by hooks on the way into each block and each of its norms, and out of the last block."""
        caught: list[np.ndarray] = []
        layers = self._model.model.layers
        handles = [layer.post_attention_layernorm.register_forward_pre_hook(_catch_input(caught)) for layer in layers]
        handles += [layer.register_forward_pre_hook(_catch_input(caught)) for layer in layers]
        handles.append(self._model.model.norm.register_forward_pre_hook(_catch_input(caught)))
        try:
            self.logits(token_ids)
        finally:
            for handle in handles:
                handle.remove()
        return caught


def _catch_input(into: list[np.ndarray]) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
    """A hook that keeps a module's input, [1, sequence, hidden_size], without the batch axis."""

    def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        into.append(inputs[0][0].numpy())

    return hook
