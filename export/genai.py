"""`genai_config.json`: what onnxruntime-genai reads of a bundle, as a dictionary."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from model import ModelConfig
from runtime import contract
from runtime.engine import exact_products
from runtime.precisions import PRECISIONS

FILE = "genai_config.json"
# Inputs for which onnxruntime-genai has the contract's words.
SAME_WORDS = (contract.INPUT_IDS, contract.ATTENTION_MASK, contract.POSITION_IDS)
# The layer in the name of a cache tensor, in the notation of printf.
ANY_LAYER = "%d"


def genai_config(
    config: ModelConfig, generation: Mapping[str, Any], precisions: Collection[str], *, in_place_cache: bool
) -> dict[str, Any]:
    """The content of `genai_config.json`.

    Args:
        config: the model's.
        generation: `generation_config.json`; its special tokens go before the model's, as in our runtime.
        precisions: names of those in the bundle. The file can name one graph: the one that our runtime prefers.
        in_place_cache: whether past and present may be one buffer.
    """
    return {
        "model": {
            "type": "llama",
            "vocab_size": config.vocab_size,
            "context_length": config.max_position_embeddings,
            **_special_tokens(config, generation),
            "decoder": _decoder(config, precisions),
        },
        "search": {
            "do_sample": False,
            "max_length": config.max_position_embeddings,
            "past_present_share_buffer": in_place_cache,
        },
    }


def _decoder(config: ModelConfig, precisions: Collection[str]) -> dict[str, Any]:
    row = next(row for name, row in PRECISIONS.items() if name in precisions)
    # Who will read the file may have another CPU than ours: one without VNNI must be asked for exact products. They may
    # also lay another graph of the bundle over the one named here; those that do not need the option ignore it.
    needs_exact = any(PRECISIONS[name].has_integer_products for name in precisions)
    exact = {exact_products.OPTION: "1"} if needs_exact else {}
    past_key, past_value = contract.past_names(ANY_LAYER)
    present_key, present_value = contract.present_names(ANY_LAYER)
    return {
        "filename": f"onnx/{row.file}",
        "session_options": {"provider_options": [], **exact},
        "hidden_size": config.hidden_size,
        "head_size": config.head_dim,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "inputs": {
            **{name: name for name in SAME_WORDS},
            "past_key_names": past_key,
            "past_value_names": past_value,
        },
        "outputs": {
            contract.LOGITS: contract.LOGITS,
            "present_key_names": present_key,
            "present_value_names": present_value,
        },
    }


def _special_tokens(config: ModelConfig, generation: Mapping[str, Any]) -> dict[str, Any]:
    """The ids that are known. Padding is asked for even where a model has none: an end-of-text id stands in."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    known = config.to_dict() | {name: generation[name] for name in names if generation.get(name) is not None}
    ids = {name: known[name] for name in names if known.get(name) is not None}
    ends = ids.get("eos_token_id", 0)
    return {"pad_token_id": ends[0] if isinstance(ends, list) else ends} | ids
