"""Sampling options as arguments of a command line: names, types, defaults and help come from SamplingOptions."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import Field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from runtime import generation_config
from runtime.errors import OptionError
from runtime.sampling.options import SamplingOptions


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add an argument for each option; what is not given stays None."""
    parser.add_argument("--greedy", action="store_true", help="take the likeliest token each time (temperature 0)")
    for option in fields(SamplingOptions):
        kind = option.metadata["kind"]
        number = {"type": kind, "metavar": "N" if kind is int else "X"}
        name, settings = SPECIAL.get(option.name) or (option.name.replace("_", "-"), number)
        parser.add_argument(f"--{name}", dest=option.name, help=_help(option), **settings)


def sampling_options(args: argparse.Namespace, defaults: Mapping[str, Any]) -> SamplingOptions:
    """The options that were given, over the model's own defaults.

    Raises:
        OptionError: options that contradict each other or lie outside their range.
    """
    given = {
        option.name: value for option in fields(SamplingOptions) if (value := getattr(args, option.name)) is not None
    }
    if args.greedy:
        if given.get("temperature"):
            raise OptionError("--greedy and --temperature contradict each other; give one")
        given["temperature"] = 0.0
    if "logit_bias" in given:
        given["logit_bias"] = dict(given["logit_bias"])
    if "json_schema" in given:
        schema = given["json_schema"]
        given["json_schema"] = schema if schema.lstrip().startswith("{") else _read(schema)
    return SamplingOptions(**{**defaults, **given})


def _bias(text: str) -> tuple[int, float]:
    token_id, _, bias = text.partition("=")
    try:
        return int(token_id), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected ID=NUMBER, such as 42=-inf, not {text!r}") from None


# Of each option that is no number: its argument's name, and how argparse takes it.
SPECIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "logit_bias": ("logit-bias", {"type": _bias, "action": "append", "metavar": "ID=X"}),
    "stop_strings": ("stop", {"action": "append", "metavar": "TEXT"}),
    "stop_token_ids": ("stop-token-id", {"type": int, "action": "append", "metavar": "ID"}),
    "json_schema": ("json-schema", {"metavar": "FILE|JSON"}),
    "regex": ("regex", {"metavar": "RE"}),
}


def _help(option: Field[Any]) -> str:
    """The meaning, whether the option may be given again, and where its default comes from."""
    notes, unset = [], option.metadata["unset"]
    if SPECIAL.get(option.name, ("", {}))[1].get("action") == "append":
        notes.append("repeatable")
    if option.name in generation_config.NAMES:
        own = f"default: the model's own ({generation_config.FILE}), else"
        notes.append(f"{own} {unset or option.default}")
    elif unset:
        notes.append(f"default: {unset}")
    elif isinstance(option.default, (int, float)):
        notes.append(f"default {option.default}")
    text = option.metadata["meaning"]
    return (f"{text} ({'; '.join(notes)})" if notes else text).replace("%", "%%")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise OptionError(f"the JSON schema {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise OptionError(f"the JSON schema {path} is not UTF-8 text: {error}") from None


def with_option(sampling: SamplingOptions, name: str, value: str) -> SamplingOptions:
    """The options with one of them changed, as a command of a chat gives it: `default` takes it back.

    Raises:
        OptionError: no option of that name that is a number, or a value outside its range.
    """
    option = next((option for option in _numbers() if option.name == name.replace("-", "_")), None)
    if option is None:
        near = get_close_matches(name.replace("-", "_"), [option.name for option in _numbers()], 1)
        raise OptionError(f"there is no option {name}" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        number: Any = option.default if value == "default" else option.metadata["kind"](value)
    except ValueError:
        raise OptionError(f"{option.name} must be {option.metadata['allowed']}, not {value!r}") from None
    changes: dict[str, Any] = {option.name: number}
    return replace(sampling, **changes)


def described_options(sampling: SamplingOptions, name: str | None = None) -> str:
    """The options that are numbers, a line each: value and meaning; or one of them."""
    shown = [option for option in _numbers() if name is None or option.name == name.replace("-", "_")]
    width = max(len(option.name) for option in shown)
    return "\n".join(
        f"{option.name:<{width}} {getattr(sampling, option.name)!s:<6} {option.metadata['meaning']}" for option in shown
    )


def _numbers() -> list[Field[Any]]:
    return [option for option in fields(SamplingOptions) if option.metadata["kind"] is not None]
