"""The texts of the special tokens that a tokenizer's files name, as transformers resolves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.bundle import read_json
from runtime.errors import BundleError

STANDARD_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What transformers' tokenizer classes name by default.
CLASS_DEFAULTS = {
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
}


def read_special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens of a folder by name: `{"bos_token": "<s>", ...}`; a name without a token is left out.

    `tokenizer_config.json` names them. `special_tokens_map.json` has the last word, except beside a config with
    `added_tokens_decoder`, which transformers wrote after that file had become redundant. What neither mentions is the
    default of the tokenizer class, if `tokenizer.json` has that token.

    Raises:
        BundleError: a file is not readable JSON, or a token is not a text.
    """
    settings = read_json(folder / "tokenizer_config.json")
    named = _named(settings, folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in settings:
        path = folder / "special_tokens_map.json"
        named |= _named(read_json(path), path)
    kind = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    missing = {name: token for name, token in CLASS_DEFAULTS.get(kind, {}).items() if name not in named}
    if missing:
        added = read_json(folder / "tokenizer.json").get("added_tokens") or []
        known = {entry.get("content") for entry in added if isinstance(entry, dict)}
        named |= {name: token for name, token in missing.items() if token in known}
    return {name: token for name, token in named.items() if token is not None}


def _named(settings: Mapping[str, Any], path: Path) -> dict[str, str | None]:
    """The tokens that one file names; None where it says that there is none."""
    own = settings.get("extra_special_tokens")  # such as {"image_token": "<image>"}; a list has no names
    named = {**settings, **own} if isinstance(own, dict) else dict(settings)
    tokens: dict[str, str | None] = {}
    for name, value in named.items():
        token = value.get("content") if isinstance(value, dict) else value
        is_own = isinstance(own, dict) and name in own
        if name in STANDARD_NAMES or is_own:
            if not isinstance(token, str) and value is not None:
                raise BundleError(f"{path}: {name} must be a text, not {value!r}")
            tokens[name] = token
        elif name.endswith("_token") and isinstance(token, str):
            tokens[name] = token
    return tokens
