"""Sampling options as arguments of a command line: names, types, defaults and help come from SamplingOptions."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from runtime.errors import OptionError
from runtime.sampling.options import SamplingOptions, meaning


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add an argument for each option; what is not given stays None."""
    parser.add_argument("--greedy", action="store_true", help="take the likeliest token each time (temperature 0)")
    for option in fields(SamplingOptions):
        kind = option.metadata["kind"]
        number = {"type": kind, "metavar": "N" if kind is int else "X"}
        name, settings = SPECIAL.get(option.name) or (option.name.replace("_", "-"), number)
        parser.add_argument(f"--{name}", dest=option.name, help=_help(option.name), **settings)


def sampling_options(args: argparse.Namespace) -> SamplingOptions:
    """The options that were given. Raises OptionError where they contradict each other or lie outside their range."""
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
        given["json_schema"] = _read(given["json_schema"])
    return SamplingOptions(**given)


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
    "json_schema": ("json-schema", {"metavar": "FILE"}),
    "regex": ("regex", {"metavar": "RE"}),
}


def _help(name: str) -> str:
    text, default = meaning(name), getattr(SamplingOptions(), name)
    if SPECIAL.get(name, ("", {}))[1].get("action") == "append":
        text += " (repeatable)"
    elif isinstance(default, (int, float)):
        text += f" (default {default})"
    return text.replace("%", "%%")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise OptionError(f"the JSON schema {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise OptionError(f"the JSON schema {path} is not UTF-8 text: {error}") from None
