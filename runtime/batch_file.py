"""A file of prompts: JSON lines in, JSON lines out, in order.

A line in is `{"prompt": TEXT}`, and may have `max_new_tokens` and `seed` of its own; a line out repeats it and adds
what was generated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from runtime.batching import Request, Row, check_request, generate_batch
from runtime.bundle import Bundle
from runtime.errors import PromptError, SmolTextError
from runtime.sampling import make_sampler
from runtime.sampling_options import SamplingOptions
from runtime.session import DecoderSession
from runtime.tokenizer import Tokenizer

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
    bundle: Bundle,
    session: DecoderSession,
    lines: list[dict[str, Any]],
    *,
    sampling: SamplingOptions,
    max_new_tokens: int | None,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    """The lines out, in order, each as soon as it and all before it have ended.

    With a seed for all, line n is drawn with seed + n, so that equal prompts get texts of their own.

    Raises:
        PromptError, OptionError: before anything is computed, with the line's number.
    """
    tokenizer = Tokenizer(bundle)
    requests = []
    for number, line in enumerate(lines, start=1):
        try:
            seed = line.get("seed", None if sampling.seed is None else sampling.seed + number - 1)
            request = Request(
                tokenizer.encode(line["prompt"]),
                line.get("max_new_tokens", max_new_tokens),
                make_sampler(replace(sampling, seed=seed)),
                stop_token_ids=bundle.eos_token_ids,
            )
            check_request(session, request)
        except SmolTextError as error:
            raise type(error)(f"request {number}: {error}") from None
        requests.append(request)
    return _in_order(lines, tokenizer, requests, generate_batch(session, requests, batch_size=batch_size))


def _in_order(
    lines: list[dict[str, Any]], tokenizer: Tokenizer, requests: list[Request], rows: Iterator[Row]
) -> Iterator[dict[str, Any]]:
    ended: dict[int, Row] = {}
    following = 0
    for row in rows:
        ended[row.index] = row
        while following in ended:
            done = ended.pop(following)
            yield _line(lines[following], tokenizer, requests[following], done)
            following += 1


def _line(line: dict[str, Any], tokenizer: Tokenizer, request: Request, row: Row) -> dict[str, Any]:
    prompt_ids = list(request.prompt_ids)
    shown = tokenizer.decode(prompt_ids)
    whole = tokenizer.decode(prompt_ids + row.token_ids)
    # The text of the new ids in their place: a word that continues the prompt keeps its space.
    completion = whole[len(shown) :] if whole.startswith(shown) else tokenizer.decode(row.token_ids)
    return line | {
        "completion": completion,
        "token_ids": row.token_ids,
        "finish_reason": row.finish_reason,
        "prompt_tokens": len(prompt_ids),
        "new_tokens": len(row.token_ids),
    }
