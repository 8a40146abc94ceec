"""What a model's author stored in `generation_config.json`: special tokens and sampling defaults.

Both are read as transformers reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from runtime.errors import BundleError, OptionError
from runtime.sampling.options import DefaultLength, SamplingOptions

FILE = "generation_config.json"
# Options that have transformers' names and meanings.
NAMES = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_new_tokens",
    "max_new_tokens",
)
KINDS = {option.name: option.metadata["kind"] for option in fields(SamplingOptions)}
# Those that greedy decoding does not read.
OF_DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
LENGTHS = ("min_new_tokens", "max_new_tokens")
GREEDY = {"temperature": 0.0}


def generation_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of SamplingOptions by name, for those that the file sets; null leaves an option unset.

    `do_sample: false` is greedy whatever the temperature, as in transformers, and a value for drawing that is out of
    its range is then left out. Where `do_sample` is absent, a stored temperature counts: its author would not have
    stored it otherwise. `max_length`, of prompt and output together, counts where `max_new_tokens` is absent. Lengths
    are of the type DefaultLength.

    Args:
        config: the content of `generation_config.json`.

    Raises:
        BundleError: a value of another type, or outside its range; it names the file.
    """
    do_sample = config.get("do_sample")
    if not isinstance(do_sample, bool | None):
        raise BundleError(f"{FILE}: do_sample must be true or false, not {do_sample!r}")
    defaults: dict[str, Any] = {}
    for name in NAMES:
        if config.get(name) is None:
            continue
        try:
            defaults[name] = _option(config, name)
        except BundleError:
            if do_sample is not False or name not in OF_DRAWING:
                raise
    defaults |= {name: DefaultLength(defaults[name]) for name in LENGTHS if name in defaults}
    if "max_new_tokens" not in defaults and config.get("max_length") is not None:
        max_length = _number(config, "max_length", int)
        if max_length < 1:
            raise BundleError(f"{FILE}: max_length must be at least 1, not {max_length}")
        defaults["max_new_tokens"] = DefaultLength(max_length, counts_prompt=True)
    return defaults | GREEDY if do_sample is False else defaults


def stored_defaults(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What `generation_defaults` found, as JSON values, under the names that the file has for them."""
    return {
        "max_length" if isinstance(value, DefaultLength) and value.counts_prompt else name: value
        for name, value in defaults.items()
    }


def special_token_ids(
    name: str, generation: Mapping[str, Any], config: Mapping[str, Any], vocab_size: int
) -> list[int]:
    """The ids of a special token: one or several, from `generation_config.json`, or else from `config.json`.

    Args:
        name: such as `eos_token_id`.
        generation: the content of `generation_config.json`.
        config: the content of `config.json`.
        vocab_size: rows of the model's vocabulary table.

    Raises:
        BundleError: not an id or a list of them, or beyond the table, so that the model could neither read nor write
            the token.
    """
    is_own = generation.get(name) is not None
    file, value = (FILE, generation[name]) if is_own else ("config.json", config.get(name))
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token_id, int) and token_id >= 0 for token_id in ids):
        raise BundleError(f"{file}: {name} must be a token id or a list of them, not {value!r}")
    beyond = [token_id for token_id in ids if token_id >= vocab_size]
    if beyond:
        raise BundleError(
            f"{file}: {name} {beyond[0]} is beyond the model's vocabulary of {vocab_size} tokens; correct it, or "
            "resize the model's embeddings to the tokenizer"
        )
    return ids


def _option(config: Mapping[str, Any], name: str) -> Any:
    """An option's value, of its type and within its range; anything else is a BundleError."""
    value = _number(config, name, KINDS[name])
    try:
        SamplingOptions(**{name: value})
    except OptionError as error:
        raise BundleError(f"{FILE}: {error}") from None
    return value


def _number(config: Mapping[str, Any], name: str, kind: type) -> Any:
    """A number of the file. Raises BundleError for any other type."""
    value, allowed = config[name], (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise BundleError(f"{FILE}: {name} must be {'a number' if float in allowed else 'an integer'}, not {value!r}")
    return kind(value)
