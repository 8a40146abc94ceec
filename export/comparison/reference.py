"""What the exported graphs are compared with: the PyTorch model, or without torch one of the graphs themselves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np

from export.probe import GraphProbe, residual_names
from runtime.engine.session import DecoderSession
from runtime.generation.generate import generate_step


class Reference(Protocol):
    """A model that is right by definition."""

    name: str
    vocab_size: int

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """float32 [len(token_ids), vocab_size]."""

    def greedy(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """The likeliest continuation, token by token, with no stop."""

    def using_threads(self, threads: int) -> AbstractContextManager[object]:
        """Within it `logits` uses this many threads, and may be called from several."""

    def residuals(self, token_ids: Sequence[int]) -> list[np.ndarray] | None:
        """The residual stream after the embedding and after every attention and MLP, in their order.

        Each is float32 [len(token_ids), hidden_size]; None where it cannot be seen.
        """


class SessionReference:
    """A graph of the bundle, which is the reference without torch or without a checkpoint.

    Args:
        session: an opened graph.
        path: its ONNX file.
    """

    def __init__(self, session: DecoderSession, path: Path) -> None:
        self.name = f"ONNX {session.precision}"
        self.vocab_size = session.shape.vocab_size
        self._session = session
        self._path = path

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """float32 [len(token_ids), vocab_size]."""
        cache = self._session.new_cache(len(token_ids))
        return self._session.forward(token_ids, cache, num_logits_to_keep=0)

    def greedy(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """The likeliest continuation."""
        return [
            token.token_id
            for token in generate_step(self._session, prompt, max_new_tokens=max_new_tokens, stop_token_ids=())
        ]

    def using_threads(self, threads: int) -> AbstractContextManager[object]:
        """The session has the threads that it was opened with."""
        return nullcontext(threads)

    def residuals(self, token_ids: Sequence[int]) -> list[np.ndarray] | None:
        """Seen in the graph; None in a graph of another exporter."""
        names = residual_names(self._path)
        if names is None:
            return None
        values = GraphProbe(self._path, self._session.shape, names).run([token_ids])
        return [values[name][0] for name in names]
