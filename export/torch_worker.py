"""Texts by the PyTorch model, for a page that shows them beside the exported ones.

It is a process of its own, so that the one that asks never loads torch. `python -m export.torch_worker BUNDLE
CHECKPOINT THREADS` writes a JSON object a line: `{"ready": true}` once the model is loaded, then, for each line
`{"prompt_ids": [...], "sampling": {...}}` that it reads, one `{"token": [text, id]}` a token and an `{"end": {...}}`;
`{"error": "..."}` where something is wrong. It ends with its input.

Tokens are drawn by the runtime's own processors and samplers: the logits alone are PyTorch's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from model import TransformerModel, load_checkpoint
from runtime.bundle import Bundle
from runtime.engine.sequence import FinishReason, Sequence
from runtime.generation.text_delta import TextDelta
from runtime.generation.text_request import TextRequest
from runtime.sampling.constraint import GrammarVocabulary
from runtime.sampling.options import SamplingOptions
from runtime.text.tokenizer import Tokenizer

WARM_UP_TOKENS = 16


class TorchTexts:
    """Continues prompts with a PyTorch model, under the options and the end-of-text tokens of its bundle."""

    def __init__(self, bundle: Bundle, model: TransformerModel) -> None:
        self._bundle = bundle
        self._model = model
        self._tokenizer = Tokenizer(bundle)

    @torch.inference_mode()
    def generate(
        self, prompt_ids: list[int], sampling: dict[str, Any], on_delta: Callable[[TextDelta], object]
    ) -> dict[str, Any]:
        """Continue a prompt.

        Args:
            prompt_ids: at least one token.
            sampling: options that differ from the model's own.
            on_delta: told every piece of text as its token comes.

        Returns:
            `finish_reason`, `new_tokens`, `first_token_seconds`, and `tokens_per_second` from the first token to the
            last, None of fewer than two.

        Raises:
            PromptError, OptionError, ConstraintError: what was asked for cannot be done.
        """
        came: list[float] = []
        reason: FinishReason | None = None

        def take(delta: TextDelta) -> None:
            nonlocal reason
            came.append(time.perf_counter())
            reason = delta.finish_reason
            on_delta(delta)

        text = self._request(prompt_ids, sampling, take)
        sequence = Sequence(0, text.request, text.limit)
        begun = time.perf_counter()
        self._run(sequence)
        if sequence.error is not None:
            raise sequence.error
        if reason is None:  # an end-of-text token, which is no piece of it
            last = text.end("stop")
            reason = last.finish_reason
            on_delta(last)
        seconds = came[-1] - came[0] if len(came) > 1 else 0.0
        return {
            "finish_reason": reason,
            "new_tokens": len(came),
            "first_token_seconds": came[0] - begun if came else None,
            "tokens_per_second": (len(came) - 1) / seconds if seconds else None,
        }

    def _request(
        self, prompt_ids: list[int], sampling: dict[str, Any], on_delta: Callable[[TextDelta], object]
    ) -> TextRequest:
        shape = self._bundle.shape
        return TextRequest(
            shape,
            self._tokenizer,
            prompt_ids,
            SamplingOptions(**{**self._bundle.generation_defaults, **sampling}),
            stop_token_ids=self._bundle.eos_token_ids,
            vocabulary=lambda: GrammarVocabulary(self._tokenizer, shape.vocab_size),
            on_delta=on_delta,
        )

    def _run(self, sequence: Sequence) -> None:
        cache = self._model.new_cache(1, sequence.prompt_tokens + sequence.limit)
        pending = sequence.token_ids
        while sequence.finish_reason is None:
            logits = self._model(torch.tensor([pending]), kv_cache=cache, num_logits_to_keep=1)[0, -1]
            sequence.take(logits.float().numpy())
            pending = sequence.token_ids[-1:]


def main(bundle_folder: str, checkpoint: str, threads: str) -> None:
    """Answer the lines of stdin until they end."""
    torch.set_num_threads(int(threads))
    bundle = Bundle.open(bundle_folder)
    texts = TorchTexts(bundle, load_checkpoint(Path(checkpoint)))
    # The first pass sets up what later ones find: without it, the first text would look slow.
    start = [bundle.bos_token_id or 0] * min(WARM_UP_TOKENS, bundle.shape.max_position_embeddings - 2)
    texts.generate(start, {"max_new_tokens": 2, "temperature": 0, "stop_token_ids": []}, lambda _: None)
    _say({"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        try:
            _say({"end": texts.generate(job["prompt_ids"], job["sampling"], _say_delta)})
        except Exception as error:  # noqa: BLE001 - the text fails, and the process is there for the next one
            _say({"error": str(error)})


def _say_delta(delta: TextDelta) -> None:
    _say({"token": [delta.text, delta.token_id]})


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (KeyboardInterrupt, BrokenPipeError):  # whoever asked is gone
        pass
    except Exception as error:  # noqa: BLE001 - it is told to whoever asked
        _say({"error": str(error)})
