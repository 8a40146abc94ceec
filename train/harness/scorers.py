"""Models as the harness needs them: logits for token ids, and greedy generation. One class runs PyTorch, one ONNX."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from model import load_checkpoint, open_checkpoint
from model.sources import tokenizer_folder
from runtime.bundle import Bundle
from runtime.engine.session import DecoderSession

Logits = NDArray[np.float32]


class Scorer(Protocol):
    """A model that the harness can ask.

    Attributes:
        name: for tables.
        folder: of its tokenizer and chat template.
        context_tokens: the most tokens that it takes.
        bos_token_id: where an empty text starts.
        eos_token_ids: a generation stops at any of them.
    """

    name: str
    folder: Path
    context_tokens: int
    bos_token_id: int | None
    eos_token_ids: Collection[int]

    def logits(self, token_ids: Sequence[int], keep: int) -> Logits:
        """The logits after each of the last `keep` tokens: float32 [keep, vocab_size]."""
        ...

    def greedy(self, token_ids: Sequence[int]) -> Iterator[int]:
        """The likeliest token after these, the one after that, and so on to the end of the context."""
        ...


class TorchScorer:
    """A checkpoint in PyTorch, in float32."""

    def __init__(self, checkpoint: str, *, device: str = "cpu") -> None:
        self.name = checkpoint
        self.folder = tokenizer_folder(open_checkpoint(checkpoint))
        self._model = load_checkpoint(checkpoint, device=device)
        config = self._model.config
        self.context_tokens = config.max_position_embeddings
        self.bos_token_id, self.eos_token_ids = config.bos_token_id, config.eos_token_ids

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[int], keep: int) -> Logits:
        """See Scorer."""
        input_ids = torch.tensor([token_ids], device=self._model.device)
        logits: Logits = self._model(input_ids, num_logits_to_keep=keep)[0].float().cpu().numpy()
        return logits

    @torch.inference_mode()
    def greedy(self, token_ids: Sequence[int]) -> Iterator[int]:
        """See Scorer."""
        cache = self._model.new_cache(1, self.context_tokens)
        pending = torch.tensor([token_ids], device=self._model.device)
        for _ in range(self.context_tokens - len(token_ids)):
            token_id = self._model(pending, kv_cache=cache, num_logits_to_keep=1)[0, -1].argmax()
            yield int(token_id)
            pending = token_id.view(1, 1)


class OnnxScorer:
    """A bundle in one precision, in onnxruntime."""

    def __init__(self, bundle: Bundle, precision: str, *, threads: int | None = None) -> None:
        self.name = f"{bundle.folder}:{precision}"
        self.folder = bundle.folder
        self._session = DecoderSession(bundle, precision, threads=threads, spin=False)
        self.context_tokens = bundle.shape.max_position_embeddings
        self.bos_token_id, self.eos_token_ids = bundle.bos_token_id, bundle.eos_token_ids

    def logits(self, token_ids: Sequence[int], keep: int) -> Logits:
        """See Scorer."""
        return self._session.forward(token_ids, self._session.new_cache(len(token_ids)), num_logits_to_keep=keep)

    def greedy(self, token_ids: Sequence[int]) -> Iterator[int]:
        """See Scorer."""
        cache, pending = self._session.new_cache(len(token_ids)), list(token_ids)
        for _ in range(self.context_tokens - len(token_ids)):
            token_id = int(self._session.forward(pending, cache)[-1].argmax())
            yield token_id
            pending = [token_id]


def open_scorers(name: str, precisions: Sequence[str] = (), *, device: str = "cpu") -> Iterator[Scorer]:
    """A checkpoint, or a bundle in each of some precisions.

    Args:
        name: a folder with a folder `onnx` is a bundle; any other folder, a GGUF file or a Hub id is a checkpoint.
        precisions: of a bundle; none for its default.
        device: of a checkpoint.
    """
    if not (Path(name) / "onnx").is_dir():
        yield TorchScorer(name, device=device)
        return
    bundle = Bundle.open(name)
    for precision in precisions or [bundle.default_precision]:
        yield OnnxScorer(bundle, precision)
