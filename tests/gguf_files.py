"""GGUF files of tiny random models, written as llama.cpp's converter writes them, and the metadata of tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

PERMUTED = ("llama", "smollm3")  # the architectures whose converter sets `undo_permute`


def adjacent_pairs(weights: np.ndarray, heads: int) -> np.ndarray:
    """The converter's `LlamaModel.permute`."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def write_gguf(
    path: Path,
    theirs: PreTrainedModel,
    *,
    dtype: str = "F32",
    architecture: str | None = None,
    metadata: dict[str, Any] | None = None,
    omit: tuple[str, ...] = (),
    extra: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write a model. Matrices are stored as `dtype`; `metadata` is added, and replaces what is None in it."""
    import gguf

    config = theirs.config
    architecture = architecture or ("llama" if config.model_type == "mistral" else config.model_type)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    values = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "vocab_size": config.vocab_size,
    }
    values = {f"{architecture}.{key}": value for key, value in values.items()} | (metadata or {})
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        if value is not None:
            _add(writer, key, value)
    enum = next(
        key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type.replace("mistral", "llama")
    )
    names = gguf.get_tensor_name_map(enum, config.num_hidden_layers)
    kind = gguf.GGMLQuantizationType[dtype]
    for name, tensor in theirs.state_dict().items():
        ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if ours in omit or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        array = tensor.float().numpy()
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(ours.split(".")[-2])
        if heads and architecture in PERMUTED:
            array = adjacent_pairs(array, heads)
        if array.ndim == 2 and dtype != "F32":
            writer.add_tensor(ours, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(ours, np.ascontiguousarray(array))
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level_metadata(tokenizer: Path, pre: str, **more: Any) -> dict[str, Any]:
    """The tokenizer of a byte-level BPE's tokenizer.json."""
    stored = json.loads(tokenizer.read_text(encoding="utf-8"))
    tokens = sorted(stored["model"]["vocab"], key=stored["model"]["vocab"].get)
    special = {entry["content"] for entry in stored["added_tokens"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in stored["model"]["merges"]]
    return _keys("gpt2", tokens, special, more | {"pre": pre, "merges": merges})


def sentencepiece_metadata(tokenizer: Path, **more: Any) -> dict[str, Any]:
    """The tokenizer of a SentencePiece BPE's tokenizer.json, whose scores are the ranks of its merges, negative."""
    stored = json.loads(tokenizer.read_text(encoding="utf-8"))
    tokens = sorted(stored["model"]["vocab"], key=stored["model"]["vocab"].get)
    special = {entry["content"] for entry in stored["added_tokens"]}
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(stored["model"]["merges"]):
        ranks.setdefault("".join(merge), rank)
    scores = [-float(ranks[token]) if token in ranks else -1e4 if len(token) == 1 else 0.0 for token in tokens]
    return _keys("llama", tokens, special, more | {"scores": scores})


def _keys(model: str, tokens: list[str], special: set[str], more: dict[str, Any]) -> dict[str, Any]:
    def kind(token: str) -> int:
        if token == "<unk>":
            return 2
        return 3 if token in special else 6 if token.startswith("<0x") else 1

    values = {"model": model, "tokens": tokens, "token_type": [kind(token) for token in tokens], **more}
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
