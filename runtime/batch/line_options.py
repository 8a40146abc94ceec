"""Sampling options of a line: names, types and ranges, checked so that an error tells the writer what to change."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, replace
from typing import Any

from runtime.errors import OptionError
from runtime.sampling.options import SamplingOptions

OPTIONS = {option.name: option for option in fields(SamplingOptions)}
# OpenAI's names of the same.
ALIASES = {"stop": "stop_strings", "max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}
# A key that shares more of its letters with an option than this (difflib's ratio) is taken for a misspelling of it.
LIKENESS = 0.81
LONGEST_SHOWN = 60
EXCLUSIVE = frozenset({"json_schema", "regex"})


def line_options(record: Mapping[str, Any], defaults: SamplingOptions, index: int) -> SamplingOptions:
    """The options of a line: its own, or else the defaults.

    Args:
        record: of the line; null stands for an option that is not given, and keys that are no option are left alone.
        defaults: of all lines. With a seed, request `index` is drawn with seed + index, so that equal prompts get texts
            of their own.
        index: of the request, from 0.

    Raises:
        OptionError: a misspelt name, an option given twice, a wrong type, or a value outside its range.
    """
    own: dict[str, Any] = {}
    for key, value in record.items():
        name = ALIASES.get(key, key)
        if name not in OPTIONS:
            _check_spelling(key)
        elif value is not None:
            if name in own:
                raise OptionError(f"{key} and another key give {name} twice: give one")
            own[name] = _checked(key, OPTIONS[name], value)
    if EXCLUSIVE & own.keys():  # the line's constraint takes the place of one for all
        own = dict.fromkeys(EXCLUSIVE) | own
    if "seed" not in own and defaults.seed is not None:
        own["seed"] = defaults.seed + index
    return replace(defaults, **own)


def _check_spelling(key: str) -> None:
    close = difflib.get_close_matches(key.lower().replace("-", "_"), [*OPTIONS, *ALIASES], 1, LIKENESS)
    if close:
        raise OptionError(
            f"{json.dumps(key)} is not an option: write {close[0]}, or rename the key if you mean another"
        )


def _checked(key: str, option: Field[Any], value: Any) -> Any:
    kind, allowed, holds = (option.metadata[name] for name in ("kind", "allowed", "holds"))
    if kind is None:
        return _READERS[option.name](key, value)
    try:
        number = kind(value)
    except (OverflowError, TypeError, ValueError):
        number = None
    if isinstance(value, (bool, str)) or number is None or (kind is int and number != value) or not holds(number):
        words = "an integer" if kind is int else "a number"
        raise OptionError(f"{key} must be {words}, {allowed}, not {_shown(value)}")
    return number


def _read_biases(key: str, value: Any) -> dict[int, float]:
    try:
        biases = {int(token_id): float(bias) for token_id, bias in value.items()}
    except (AttributeError, OverflowError, TypeError, ValueError):
        biases = None
    if biases is None or any(isinstance(bias, (bool, str)) for bias in value.values()):
        raise OptionError(f'{key} must be an object such as {{"42": -1.5}}, not {_shown(value)}')
    if not OPTIONS["logit_bias"].metadata["holds"](biases):
        raise OptionError(f"{key} must be {OPTIONS['logit_bias'].metadata['allowed']}, not {_shown(value)}")
    return biases


def _read_texts(key: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise OptionError(f"{key} must be a text or a list of texts, none of them empty, not {_shown(value)}")
    return tuple(texts)


def _read_token_ids(key: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(token_id) is int for token_id in value):
        raise OptionError(f"{key} must be a list of token ids, not {_shown(value)}")
    return tuple(value)


def _read_schema(key: str, value: Any) -> Any:
    if not isinstance(value, (bool, dict, str)):
        raise OptionError(f"{key} must be a JSON schema: an object, true, false, or a text of one, not {_shown(value)}")
    return value


def _read_regex(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise OptionError(f"{key} must be the text of a regular expression, not {_shown(value)}")
    return value


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "logit_bias": _read_biases,
    "stop_strings": _read_texts,
    "stop_token_ids": _read_token_ids,
    "json_schema": _read_schema,
    "regex": _read_regex,
}


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."
