"""A file of prompts: JSON lines in, JSON lines out, in order.

A line in is `{"prompt": TEXT}`, and may have `max_new_tokens` and `seed` of its own; a line out repeats it and adds
what was generated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from runtime.errors import PromptError, SmolTextError
from runtime.generation.generate import Request, generate_batch
from runtime.generation.text_delta import Generation
from runtime.language_model import LanguageModel
from runtime.sampling.options import SamplingOptions

OWN_KEYS = {"max_new_tokens": int, "seed": int}


def read_lines(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The objects of a file. Raises PromptError, with the line's number, for one that is no request."""
    requests = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"line {number} is no JSON: {error}") from None
        if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
            raise PromptError(f'line {number} must be an object with a text, as in {{"prompt": "Once upon"}}')
        for key, kind in OWN_KEYS.items():
            if key in value and (not isinstance(value[key], kind) or isinstance(value[key], bool)):
                raise PromptError(f"line {number}: {key} must be an integer, not {json.dumps(value[key])}")
        requests.append(value)
    return requests


def run_lines(
    model: LanguageModel, lines: list[dict[str, Any]], sampling: SamplingOptions, *, batch_size: int
) -> Iterator[dict[str, Any]]:
    """The lines out, in order, each as soon as it and all before it have ended.

    With a seed for all, line n is drawn with seed + n, so that equal prompts get texts of their own.

    Raises:
        PromptError, OptionError, ConstraintError: before anything is computed, with the line's number.
    """
    texts = []
    for number, line in enumerate(lines, start=1):
        seed = None if sampling.seed is None else sampling.seed + number - 1
        try:
            texts.append(_Text(model, line, replace(sampling, **{"seed": seed} | _own(line))))
        except SmolTextError as error:
            raise type(error)(f"request {number}: {error}") from None
    return _in_order(model, texts, batch_size)


def _own(line: dict[str, Any]) -> dict[str, Any]:
    return {key: line[key] for key in OWN_KEYS if key in line}


class _Text:
    """What becomes of one line."""

    def __init__(self, model: LanguageModel, line: dict[str, Any], sampling: SamplingOptions) -> None:
        self.prompt_ids = model.tokenizer.encode_prompt(line["prompt"])
        model.session.check_token_ids(self.prompt_ids)
        self._line = line
        self._continuation = model.continuation(self.prompt_ids, sampling)
        self._result = Generation(prompt_tokens=len(self.prompt_ids))
        self._is_ended = False

    def request(self) -> Request:
        """For the batch."""
        continuation = self._continuation
        return Request(
            self.prompt_ids,
            continuation.limit,
            continuation.sample,
            [continuation.process],
            continuation.stop_token_ids,
            self._is_last,
        )

    def result(self) -> dict[str, Any]:
        """The line out, of a text that has ended."""
        if not self._is_ended:  # at a stop token, which brings no text of its own
            self._result.add(self._continuation.end("stop"))
        return self._line | {
            "completion": self._result.text,
            "token_ids": self._result.token_ids,
            "finish_reason": self._result.finish_reason,
            "prompt_tokens": self._result.prompt_tokens,
            "new_tokens": self._result.new_tokens,
        }

    def _is_last(self, token_id: int) -> bool:
        chunk = self._continuation.push(token_id)
        self._result.add(chunk)
        self._is_ended = chunk.finish_reason is not None
        return self._is_ended


def _in_order(model: LanguageModel, texts: list[_Text], batch_size: int) -> Iterator[dict[str, Any]]:
    ended: set[int] = set()
    following = 0
    for row in generate_batch(model.session, [text.request() for text in texts], batch_size=batch_size):
        ended.add(row.index)
        while following in ended:
            yield texts[following].result()
            following += 1
