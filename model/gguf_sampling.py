"""The sampling defaults of a GGUF file as `generation_config.json`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

PREFIX = "general.sampling."
# llama.cpp's names -> transformers', for those that mean the same.
NAMES = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


def sampling_defaults(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What `generation_config.json` would say of drawing; empty where the file says nothing.

    llama.cpp is greedy at a temperature of 0, takes a `top_k` of 0 for no limit and a `penalty_last_n` of 0 for no
    penalty. Its penalty looks at the last tokens, ours at all, as transformers' does. What has no counterpart (XTC,
    mirostat, the order of samplers) is named on stderr.
    """
    values = {key.removeprefix(PREFIX): metadata[key] for key in metadata if key.startswith(PREFIX)}
    unused = sorted(values.keys() - NAMES.keys() - {"penalty_last_n"})
    if unused:
        logging.getLogger(__name__).warning(
            f"sampling defaults of the GGUF file without effect here: {', '.join(unused)}"
        )
    if values.get("penalty_last_n") == 0:
        values.pop("penalty_repeat", None)
    if values.get("top_k", 1) <= 0:
        del values["top_k"]
    defaults = {NAMES[name]: value for name, value in values.items() if name in NAMES}
    if "temp" in values:
        defaults["do_sample"] = values["temp"] > 0
        if not defaults["do_sample"]:
            del defaults["temperature"]
    return defaults
