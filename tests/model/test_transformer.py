"""The model computes what transformers computes, cached or not, and no position sees a later one."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from model import ModelConfig, TransformerModel, load_checkpoint
from model.attention import Attention, causal_attention
from model.norm import RMSNorm
from model.rotary import RotaryPositionalEmbedding
from model.transformer import MLP, TransformerBlock

RELATIVE_TOLERANCE = 1e-5
BASE = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rope_theta": 1000.0,
    "initializer_range": 0.3,
}
STANDARD_CHANGES = [
    {},
    {"num_key_value_heads": 6},
    {"num_key_value_heads": 1},
    {"tie_word_embeddings": False},
    {"attention_bias": True},
    {"mlp_bias": True},
    {"head_dim": 16},
    {"rms_norm_eps": 1e-2, "rope_theta": 123456.0},
]
VARIANT_CHANGES = [
    {"rope_interleaved": True},
    {"learned_position_embeddings": True},
    {"rope_interleaved": True, "learned_position_embeddings": True, "attention_bias": True, "mlp_bias": True},
]


def make_model(changes: dict) -> TransformerModel:
    torch.manual_seed(0)
    model = TransformerModel(ModelConfig(**(BASE | changes))).eval()
    for parameter in model.parameters():  # norms and biases too must matter
        parameter.data += torch.randn_like(parameter) * 0.1
    return model


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, BASE["vocab_size"], shape, generator=torch.Generator().manual_seed(1))


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = RELATIVE_TOLERANCE) -> None:
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("changes", STANDARD_CHANGES, ids=str)
@torch.no_grad()
def test_transformers_gives_the_same_logits_from_the_same_weights(changes):
    model = make_model(changes)
    theirs = LlamaForCausalLM(LlamaConfig(**model.config.to_dict())).eval()
    theirs.load_state_dict(model.state_dict(), strict=True)
    assert_close(model(tokens(2, 20)), theirs(tokens(2, 20)).logits)


@torch.no_grad()
def test_one_layer_agrees_with_every_intermediate_result_of_the_reference(shared_data):
    data = load_file(shared_data / "reference" / "smollm2-tiny-layer-f32.safetensors")
    facts = json.loads((shared_data / "reference" / "smollm2-tiny-layer-f32.json").read_text())["config"]
    config = ModelConfig(
        vocab_size=1,
        hidden_size=facts["hidden_size"],
        intermediate_size=facts["intermediate_size"],
        num_hidden_layers=1,
        num_attention_heads=facts["query_heads"],
        num_key_value_heads=facts["kv_heads"],
        head_dim=facts["head_dim"],
        max_position_embeddings=facts["max_positions"],
        rms_norm_eps=facts["rms_norm_epsilon"],
        rope_theta=facts["rope_theta"],
    )
    block = TransformerBlock(config, layer=0)
    block.load_state_dict(
        {
            "input_layernorm.weight": data["weights.input_norm"],
            "post_attention_layernorm.weight": data["weights.post_attention_norm"],
        }
        | {f"self_attn.{name}.weight": data[f"weights.{name}"] for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
        | {f"mlp.{name}.weight": data[f"weights.{name}"] for name in ("gate_proj", "up_proj", "down_proj")}
    )
    hidden, position_ids = data["input.hidden"], data["position_ids"].long()
    rotary = RotaryPositionalEmbedding(config)
    normed = block.input_layernorm(hidden)
    assert_close(normed, data["expected.input_norm"])
    query = block.self_attn.q_proj(normed).unflatten(-1, (facts["query_heads"], -1))
    assert_close(rotary(query, query, position_ids)[0], data["expected.query_rope"])
    projected = block.self_attn(normed, position_ids, rotary, None)
    assert_close(projected, data["expected.attention_projected"])
    assert_close(hidden + projected, data["expected.after_attention"])
    assert_close(block(hidden, position_ids, rotary, None), data["expected.after_mlp"])


@pytest.mark.parametrize("changes", STANDARD_CHANGES + VARIANT_CHANGES, ids=str)
@torch.no_grad()
def test_no_position_sees_a_later_token(changes):
    model = make_model(changes)
    original = tokens(1, 24)
    logits = model(original)
    for position in range(24):
        perturbed = original.clone()
        perturbed[0, position] = (perturbed[0, position] + 1) % BASE["vocab_size"]
        changed = model(perturbed)
        assert torch.equal(changed[:, :position], logits[:, :position])
        assert not torch.allclose(changed[:, position:], logits[:, position:])


@pytest.mark.parametrize("changes", STANDARD_CHANGES + VARIANT_CHANGES, ids=str)
@pytest.mark.parametrize("chunks", [[24], [1] * 24, [5, 1, 11, 7], [23, 1]], ids=str)
@torch.no_grad()
def test_the_cache_changes_nothing_however_the_tokens_are_cut(changes, chunks):
    model, ids = make_model(changes), tokens(2, 24)
    cache = model.new_cache(2, 24)
    parts = [model(part, kv_cache=cache) for part in ids.split(chunks, dim=1)]
    assert cache.length == 24
    assert_close(torch.cat(parts, dim=1), model(ids))


@torch.no_grad()
def test_attention_is_softmax_of_scaled_products_of_what_came_before():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 3, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, 7, 8, generator=generator)
    expected = torch.empty_like(query)
    for head in range(6):
        for row in range(3):
            seen = 7 - 3 + row + 1
            scores = key[:, head // 3, :seen] @ query[:, head, row, :, None] / math.sqrt(8)
            expected[:, head, row] = (scores.softmax(1) * value[:, head // 3, :seen]).sum(1)
    assert_close(causal_attention(query, key, value), expected)


@torch.no_grad()
def test_rotation_depends_on_the_distance_of_positions_alone():
    for interleaved in (False, True):
        rotary = RotaryPositionalEmbedding(ModelConfig(**(BASE | {"rope_interleaved": interleaved})))
        a, b = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))

        def product(first: int, second: int, a=a, b=b, rotary=rotary) -> float:
            return float((rotary(a, a, torch.tensor([[first]]))[0] * rotary(b, b, torch.tensor([[second]]))[1]).sum())

        assert product(3, 7) == pytest.approx(product(40, 44), rel=1e-4)
        assert product(3, 7) != pytest.approx(product(3, 8), rel=1e-2)


@torch.no_grad()
def test_interleaved_and_half_split_rotation_are_one_rotation_of_permuted_features():
    half = RotaryPositionalEmbedding(ModelConfig(**BASE))
    interleaved = RotaryPositionalEmbedding(ModelConfig(**(BASE | {"rope_interleaved": True})))
    query, key = torch.randn(2, 1, 5, 2, 8, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(5)[None]
    permutation = torch.arange(8).view(2, 4).T.flatten()  # features of half-split in the order of interleaved
    permuted = interleaved(query[..., permutation], key[..., permutation], positions)
    for one, other in zip(half(query, key, positions), permuted, strict=True):
        assert torch.equal(one[..., permutation], other)


def test_the_modules_carry_the_names_of_the_field():
    model = make_model({})
    assert {type(module) for module in model.modules()} >= {
        RMSNorm, RotaryPositionalEmbedding, Attention, MLP, TransformerBlock, TransformerModel,
    }  # fmt: skip
    theirs = LlamaForCausalLM(LlamaConfig(**model.config.to_dict()))
    assert model.state_dict().keys() == theirs.state_dict().keys()


def test_generate_with_and_without_the_cache_is_one_text():
    model, prompt = make_model({}), tokens(5)
    cached = model.generate(prompt, max_new_tokens=30)
    assert cached == model.generate(prompt, max_new_tokens=30, use_cache=False)
    assert len(cached) == 30


def test_generate_stops_at_a_stop_token_and_at_the_end_of_the_context():
    model, prompt = make_model({}), tokens(5)
    text = model.generate(prompt, max_new_tokens=30)
    stop = text[7]
    assert model.generate(prompt, max_new_tokens=30, stop_token_ids={stop}) == text[: text.index(stop)]
    assert len(model.generate(prompt, max_new_tokens=1000)) == BASE["max_position_embeddings"] - 5


def test_a_sliding_window_goes_on_from_half_a_context_and_is_exact_before():
    model, prompt = make_model({}), tokens(5)
    context = BASE["max_position_embeddings"]
    expected, start = prompt.tolist(), 0
    while len(expected) < 200:  # the plain twin: every step from scratch
        if len(expected) - start == context:
            start = len(expected) - context // 2
        expected.append(int(model(torch.tensor([expected[start:]]))[0, -1].argmax()))
    slid = model.generate(prompt, max_new_tokens=195, sliding_window=True)
    assert [*prompt.tolist(), *slid] == expected
    assert slid[: context - 5] == model.generate(prompt, max_new_tokens=195)
    assert slid == model.generate(prompt, max_new_tokens=195, sliding_window=True, use_cache=False)
    assert len(model.generate(tokens(100), max_new_tokens=7, sliding_window=True)) == 7


def test_sampling_is_deterministic_under_a_seed_and_top_k_one_is_greedy():
    model, prompt = make_model({}), tokens(5)

    def draw(seed: int, **options) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return model.generate(prompt, max_new_tokens=30, temperature=1.0, generator=generator, **options)

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    assert draw(0, top_k=1) == model.generate(prompt, max_new_tokens=30)


def test_more_tokens_than_the_context_is_an_error_that_says_how_many_fit():
    with pytest.raises(ValueError, match="64"):
        make_model({})(tokens(1, 65))


@pytest.mark.parametrize("case", [0, 1])
def test_the_golden_continuations_of_stories260k(case, shared_data):
    model = load_checkpoint(shared_data / "stories260k")
    golden = json.loads((shared_data / "stories260k" / "golden.json").read_text())["cases"][case]
    prompt = torch.tensor(golden["prompt_ids"])
    new_tokens = len(golden["ids"]) - len(prompt)
    assert golden["prompt_ids"] + model.generate(prompt, max_new_tokens=new_tokens) == golden["ids"]
