"""A LoRA adapter's folder is its base with the adapter merged in, as peft merges it."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from model import CheckpointError, load_checkpoint, open_checkpoint
from tests.family import LLAMA, QWEN2, make_checkpoint

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers so
IDS = torch.randint(0, 96, (1, 12), generator=torch.Generator().manual_seed(1))
ADAPTERS = {
    "queries and values": {"target_modules": ["q_proj", "v_proj"]},
    "all linear layers": {"target_modules": "all-linear", "r": 3, "lora_alpha": 16},
    "rank-stabilized": {"target_modules": ["down_proj"], "use_rslora": True},
    "ranks of their own": {"target_modules": ["q_proj", "o_proj"], "rank_pattern": {"q_proj": 2}},
    "a head saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "biases": {"target_modules": ["q_proj"], "bias": "lora_only"},
}


def make_adapter(folder, **settings):
    """A base by transformers and an adapter by peft; returns peft's model."""
    make_checkpoint(folder / "base", QWEN2 if settings.get("bias") else LLAMA)
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    torch.manual_seed(1)
    theirs = peft.get_peft_model(base, peft.LoraConfig(**({"r": 4, "lora_alpha": 8} | settings))).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(folder / "adapter")
    return theirs


def change_settings(folder, **changes) -> None:
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ADAPTERS)
@torch.no_grad()
def test_logits_are_pefts(name, tmp_path):
    theirs = make_adapter(tmp_path, **ADAPTERS[name])
    expected = theirs(IDS).logits
    ours = load_checkpoint(tmp_path / "adapter")(IDS)
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (load_checkpoint(tmp_path / "base")(IDS) - expected).abs().max() > 1e-2 * expected.abs().max()


def test_the_base_may_lie_beside_the_adapter(tmp_path):
    make_adapter(tmp_path, **ADAPTERS["queries and values"])
    change_settings(tmp_path, base_model_name_or_path="../base")
    assert open_checkpoint(tmp_path / "adapter").folder == tmp_path / "adapter"


def test_the_bases_config_may_lie_in_the_adapters_folder(tmp_path):
    make_adapter(tmp_path, **ADAPTERS["queries and values"])
    expected = load_checkpoint(tmp_path / "adapter")(IDS)
    (tmp_path / "adapter" / "config.json").write_bytes((tmp_path / "base" / "config.json").read_bytes())
    assert torch.equal(load_checkpoint(tmp_path / "adapter")(IDS), expected)


def test_its_tokenizer_goes_before_the_bases(tmp_path):
    make_adapter(tmp_path, **ADAPTERS["queries and values"])
    for folder, name in (("base", "tokenizer.json"), ("base", "generation_config.json"), ("adapter", "tokenizer.json")):
        (tmp_path / folder / name).write_text("{}")
    found = {path.name: path.parent.name for path in open_checkpoint(tmp_path / "adapter").side_files()}
    assert found == {"tokenizer.json": "adapter", "generation_config.json": "base"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path"),
        ({"base_model_name_or_path": "no-such-folder"}, "no-such-folder"),
    ],
    ids=str,
)
def test_an_adapter_that_cannot_be_merged_is_refused_by_name(changes, named, tmp_path):
    make_adapter(tmp_path, **ADAPTERS["queries and values"])
    change_settings(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=named):
        open_checkpoint(tmp_path / "adapter")


def test_an_adapter_of_another_base_names_what_does_not_fit(tmp_path):
    make_adapter(tmp_path, **ADAPTERS["queries and values"])
    make_checkpoint(tmp_path / "base", LLAMA | {"num_hidden_layers": 2})
    with pytest.raises(CheckpointError, match=r"layers\.[23]\.self_attn.*no place"):
        open_checkpoint(tmp_path / "adapter")


def test_an_adapter_without_its_weights_says_so(tmp_path):
    make_adapter(tmp_path, **ADAPTERS["queries and values"])
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"without adapter_model\.safetensors"):
        open_checkpoint(tmp_path / "adapter")
