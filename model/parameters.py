"""How many parameters a config has, part by part, without building the model."""

from __future__ import annotations

from model.config import ModelConfig


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Parameters by part. A tied head counts zero, for its matrix is `embed_tokens`.

    Returns:
        `{"embed_tokens", "embed_positions", "attention", "mlp", "norms", "lm_head", "total"}`.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    query = config.num_attention_heads * config.head_dim
    key_value = config.num_key_value_heads * config.head_dim
    attention = hidden * (query + 2 * key_value) + query * hidden
    mlp = 3 * hidden * config.intermediate_size
    if config.attention_bias:
        attention += query + 2 * key_value + hidden
    if config.mlp_bias:
        mlp += 2 * config.intermediate_size + hidden
    counts = {
        "embed_tokens": config.vocab_size * hidden,
        "embed_positions": config.max_position_embeddings * hidden if config.learned_position_embeddings else 0,
        "attention": layers * attention,
        "mlp": layers * mlp,
        "norms": (2 * layers + 1) * hidden,
        "lm_head": 0 if config.tie_word_embeddings else config.vocab_size * hidden,
    }
    return counts | {"total": sum(counts.values())}


def describe_parameters(config: ModelConfig) -> str:
    """The counts as lines of text, each with its share of the whole."""
    counts = parameter_counts(config)
    total = counts["total"]
    lines = [f"{part:<16} {count:>13,} {count / total:>7.1%}" for part, count in counts.items() if count]
    if config.tie_word_embeddings:
        lines.insert(-1, f"{'lm_head':<16} {'tied':>13}         (shares embed_tokens)")
    return "\n".join(lines)
