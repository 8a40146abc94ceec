"""A checkpoint folder is read whole or refused; what is written, transformers reads."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from model import (
    Checkpoint,
    CheckpointError,
    CheckpointNotFoundError,
    ModelConfig,
    TransformerModel,
    load_checkpoint,
    save_checkpoint,
)
from model.checkpoint import INDEX_FILE, WEIGHTS_FILE

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=32,
)
IDS = torch.arange(20).view(2, 10)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    return save_checkpoint(TransformerModel(CONFIG), tmp_path / "checkpoint")


def rewrite(folder, change) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shard_bytes", [10**9, 10_000], ids=["whole", "sharded"])
@torch.no_grad()
def test_transformers_loads_what_we_save_and_gives_the_same_logits(tied, shard_bytes, tmp_path):
    model = TransformerModel(CONFIG.replace(tie_word_embeddings=tied)).eval()
    folder = save_checkpoint(model, tmp_path / "checkpoint", max_shard_bytes=shard_bytes)
    assert (folder / INDEX_FILE).is_file() == (shard_bytes == 10_000)
    theirs, info = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = model(IDS)
    assert (theirs(IDS).logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(load_checkpoint(folder)(IDS), expected)


@torch.no_grad()
def test_we_load_what_transformers_saves(tmp_path):
    from transformers import LlamaConfig

    theirs = LlamaForCausalLM(LlamaConfig(**CONFIG.to_dict())).eval()
    theirs.save_pretrained(tmp_path)
    assert torch.allclose(load_checkpoint(tmp_path)(IDS), theirs(IDS).logits, rtol=1e-5, atol=1e-6)


def test_a_variant_survives_saving(tmp_path):
    config = CONFIG.replace(rope_interleaved=True, learned_position_embeddings=True, mlp_bias=True)
    model = TransformerModel(config).eval()
    loaded = load_checkpoint(save_checkpoint(model, tmp_path / "variant"))
    assert loaded.config == config
    assert torch.equal(loaded(IDS), model(IDS))


def test_bfloat16_is_kept_on_disk_and_read_as_float32(tmp_path):
    model = TransformerModel(CONFIG).bfloat16()
    folder = save_checkpoint(model, tmp_path / "half")
    assert load_file(folder / WEIGHTS_FILE)["model.norm.weight"].dtype == torch.bfloat16
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert torch.equal(load_checkpoint(folder).lm_head.weight, model.lm_head.weight.float())


def test_a_head_that_is_stored_although_tied_is_taken_if_it_is_the_same(folder):
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    load_checkpoint(folder)
    rewrite(folder, lambda tensors: tensors["lm_head.weight"].add_(1))
    with pytest.raises(CheckpointError, match="tie_word_embeddings"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"), "missing model.layers.1.mlp.up_proj.weight"),
        (lambda tensors: tensors.update({"model.layers.2.x": torch.ones(1)}), "extra model.layers.2.x"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}), r"\[31\].*\[32\]"),
        (lambda tensors: tensors["model.norm.weight"].fill_(float("nan")), "model.norm.weight holds 32 numbers"),
        (lambda tensors: tensors["model.embed_tokens.weight"][3].fill_(float("inf")), "embed_tokens"),
    ],
    ids=["missing", "extra", "shape", "nan", "infinite"],
)
def test_weights_that_do_not_fit_the_config_are_named(folder, change, named):
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(folder)


def test_an_untied_model_without_a_head_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(CheckpointError, match=r"missing lm_head\.weight"):
        load_checkpoint(folder)


@pytest.mark.parametrize("kept", [0, 5, 200, 0.5, 0.99])
def test_a_cut_off_file_is_refused(folder, kept):
    path = folder / WEIGHTS_FILE
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 or kept == 0 else kept * len(content))])
    with pytest.raises(CheckpointError, match="cut off"):
        Checkpoint(folder)


def test_a_missing_shard_is_named(tmp_path):
    folder = save_checkpoint(TransformerModel(CONFIG), tmp_path / "sharded", max_shard_bytes=10_000)
    shard = next(iter(sorted(folder.glob("model-0*"))))
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        Checkpoint(folder)


def test_an_index_cannot_lead_out_of_the_folder(tmp_path):
    folder = save_checkpoint(TransformerModel(CONFIG), tmp_path / "sharded", max_shard_bytes=10_000)
    index = json.loads((folder / INDEX_FILE).read_text())
    index["weight_map"]["model.norm.weight"] = "../secret.safetensors"
    (folder / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="outside"):
        Checkpoint(folder)


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path, folder):
    with pytest.raises(CheckpointNotFoundError, match="no folder"):
        Checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointNotFoundError, match="no folder"):
        Checkpoint("../no-such-checkpoint")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        Checkpoint(folder / "config.json")
    (folder / WEIGHTS_FILE).rename(folder / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth"):
        Checkpoint(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["whole", "legacy", "sharded"])
def test_pytorchs_own_files_give_the_same_weights(dtype, kind, folder):
    state = {name: tensor.to(dtype) for name, tensor in load_checkpoint(folder).state_dict().items()}
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # as old exports have it
    (folder / WEIGHTS_FILE).unlink()
    names = sorted(state)
    shards = {"pytorch_model.bin": names} if kind != "sharded" else {"a.bin": names[:5], "b.bin": names[5:]}
    for file, held in shards.items():
        held_state = {name: state[name] for name in held}
        torch.save(held_state, folder / file, _use_new_zipfile_serialization=kind != "legacy")
    if kind == "sharded":
        weight_map = {name: file for file, held in shards.items() for name in held}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    loaded = load_checkpoint(folder).state_dict()
    assert all(torch.equal(loaded[name], state[name].float()) for name in loaded)


class RunsCode:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize(
    "write",
    [
        lambda path, state: torch.save({"model": state}, path),
        lambda path, state: torch.save(state | {"extra": RunsCode()}, path),
        lambda path, state: torch.save([1, 2], path),
        lambda path, state: path.write_bytes(b""),
        lambda path, state: path.write_bytes(b"not a pickle"),
    ],
    ids=["nested", "code", "list", "empty", "text"],
)
def test_a_pytorch_file_that_holds_other_things_is_refused(write, folder, capsys):
    state = load_checkpoint(folder).state_dict()
    (folder / WEIGHTS_FILE).unlink()
    write(folder / "pytorch_model.bin", state)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin") as raised:
        Checkpoint(folder)
    assert "\n" not in str(raised.value)
    assert "weights_only" not in str(raised.value)
    assert "this must not run" not in capsys.readouterr().out


def test_integers_are_no_weights(folder):
    rewrite(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds torch\.int8"):
        load_checkpoint(folder)


def test_saving_over_a_checkpoint_replaces_it_whole_or_not_at_all(folder):
    (folder / "old.txt").write_text("from before")
    model = TransformerModel(CONFIG)
    save_checkpoint(model, folder)
    assert not (folder / "old.txt").exists()
    model.model.norm.weight.data[0] = float("nan")
    before = (folder / WEIGHTS_FILE).read_bytes()
    with pytest.raises(CheckpointError, match="NaN"):
        save_checkpoint(model, folder)
    assert (folder / WEIGHTS_FILE).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_failure_in_the_middle_of_saving_leaves_the_old_checkpoint(folder, monkeypatch):
    before = (folder / WEIGHTS_FILE).read_bytes()

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(TransformerModel(CONFIG), folder)
    assert (folder / WEIGHTS_FILE).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_side_files_travel_with_the_weights(folder, tmp_path):
    (folder / "tokenizer.json").write_text("{}")
    copy = save_checkpoint(load_checkpoint(folder), tmp_path / "copy", side_files=Checkpoint(folder).side_files())
    assert (copy / "tokenizer.json").read_text() == "{}"
    shutil.rmtree(copy)
