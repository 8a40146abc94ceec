"""Every architecture of the family, exported and run with a cache, computes what transformers computes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from export.bundle import export_bundle
from export.precisions import parse_precisions
from export.weight_formats import Float
from model import Checkpoint, load_checkpoint, open_checkpoint
from runtime import Bundle
from runtime.engine.session import DecoderSession
from runtime.precisions import PRECISIONS
from tests.export.graphs import Graph, relative_difference
from tests.family import CONFIGS, LLAMA, SHORT, make_checkpoint
from tests.goldens.make_tiny_bundle import VOCAB_SIZE, make_tokenizer

TOLERANCE = 1e-4
CHUNKS = [9, 6, 1, 1, 15, 1, 1, 6]  # to 40 tokens: beyond the original context of 16, and beyond every window
IDS = np.random.default_rng(0).integers(3, VOCAB_SIZE, sum(CHUNKS))
# What rounding costs these random weights at most, in nats a token; plain llama has 0.012, 0.016 and 0.021.
ROUNDED = {
    "tinyllama",
    "llama3, old spelling",
    "dynamic",
    "yarn, attention_factor",
    "mistral, a window",
    "qwen2",
    "qwen2, windows",
    "qwen3",
    "smollm3",
}
KL_LIMITS = {"int8": 0.05, "q8": 0.1, "int8-kv8": 0.1}


def export(folder, config: dict, precisions: str, **options) -> Bundle:
    make_tokenizer().save(str(folder / "theirs" / "tokenizer.json"))
    out = folder / ("portable" if options.get("portable") else "bundle")
    export_bundle(
        Checkpoint(folder / "theirs"),
        out,
        parse_precisions(precisions),
        source="test",
        progress=False,
        calibration_tokens=256,
        **options,
    )
    return Bundle.open(out)


def chunked(forward) -> np.ndarray:
    bounds = np.cumsum(CHUNKS)[:-1]
    return np.concatenate([forward(chunk) for chunk in np.split(IDS, bounds)])


def logits_of(bundle: Bundle, precision: str) -> np.ndarray:
    session = DecoderSession(bundle, precision)
    cache = session.new_cache()
    return chunked(lambda chunk: session.forward(chunk, cache, num_logits_to_keep=0))


@torch.no_grad()
def logits_of_transformers(theirs) -> np.ndarray:
    cache = DynamicCache(config=theirs.config)
    return chunked(
        lambda chunk: theirs(torch.tensor(chunk)[None], past_key_values=cache, use_cache=True).logits[0].numpy()
    )


def kl(expected: np.ndarray, found: np.ndarray) -> float:
    expected, found = (torch.from_numpy(logits).double().log_softmax(-1) for logits in (expected, found))
    return float((expected.exp() * (expected - found)).sum(-1).mean())


@pytest.mark.parametrize("name", CONFIGS)
def test_exported_logits_are_transformers(name, tmp_path):
    config = CONFIGS[name] | {"vocab_size": VOCAB_SIZE}
    theirs = make_checkpoint(tmp_path / "theirs", config)
    expected = logits_of_transformers(theirs)
    bundle = export(tmp_path, config, ",".join(["fp32", *(KL_LIMITS if name in ROUNDED else ())]))
    assert bundle.shape.max_position_embeddings == load_checkpoint(tmp_path / "theirs").config.max_position_embeddings
    assert relative_difference(logits_of(bundle, "fp32"), expected) <= TOLERANCE
    for precision, limit in KL_LIMITS.items() if name in ROUNDED else ():
        assert kl(expected, logits_of(bundle, precision)) < limit, precision
    portable = export(tmp_path, config, "fp32", portable=True)
    assert relative_difference(logits_of(portable, "fp32"), expected) <= TOLERANCE


@pytest.mark.parametrize("name", ["qwen2", "qwen3, windows", "smollm3, windows", "dynamic"])
def test_rounding_by_calibration_sees_the_layers_as_they_run(name, tmp_path):
    """GPTQ and the mixture run the layers in PyTorch: what they leave out would cost the graph far more than this."""
    config = CONFIGS[name] | {"vocab_size": VOCAB_SIZE, "head_dim": 12}
    theirs = make_checkpoint(tmp_path / "theirs", config)
    expected = logits_of_transformers(theirs)
    bundle = export(tmp_path, config, "q4,auto")
    assert kl(expected, logits_of(bundle, "q4")) < 1
    assert kl(expected, logits_of(bundle, "auto")) < 0.05


@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "yarn"])
def test_a_scaled_context_is_the_bundles(rope_type, tmp_path):
    config = LLAMA | SHORT | {"vocab_size": VOCAB_SIZE, "rope_scaling": {"rope_type": rope_type, "factor": 2.5}}
    make_checkpoint(tmp_path / "theirs", config)
    bundle = export(tmp_path, config, "fp32")
    assert bundle.shape.max_position_embeddings == 40
    assert math.isfinite(logits_of(bundle, "fp32").sum())


def test_a_longer_row_beside_it_changes_no_rows_dynamic_angles(tmp_path):
    config = LLAMA | SHORT | {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}
    make_checkpoint(tmp_path / "theirs", config)
    graph = Graph(Checkpoint(tmp_path / "theirs"), Float(), tmp_path / "model.onnx")
    ids = np.random.default_rng(0).integers(3, 96, (2, 40))
    lengths = np.array([20, 40])
    mask = (np.arange(40) < lengths[:, None]).astype(np.int64)
    together, _ = graph(ids, mask=mask)
    alone, _ = graph(ids[:1, :20])
    assert relative_difference(together[:1, :20], alone) <= 1e-6


@pytest.mark.parametrize("head_dim", [4, 6, 10, 12, 20, 100])
@pytest.mark.parametrize(
    "changes",
    [{}, {"attention_bias": True, "num_key_value_heads": 4}, {"model_type": "qwen3"}],
    ids=["grouped", "biases, not grouped", "norms"],
)
def test_heads_of_every_even_size_are_exported(head_dim, changes, tmp_path):
    config = LLAMA | {"vocab_size": VOCAB_SIZE, "head_dim": head_dim} | changes
    theirs = make_checkpoint(tmp_path / "theirs", config)
    expected = logits_of_transformers(theirs)
    bundle = export(tmp_path, config, "fp32,int8,int8-kv8")
    assert bundle.shape.head_dim == -(-head_dim // 8) * 8
    assert relative_difference(logits_of(bundle, "fp32"), expected) <= TOLERANCE
    for precision in ("int8", "int8-kv8"):
        assert kl(expected, logits_of(bundle, precision)) < KL_LIMITS[precision], precision
    if not changes:
        portable = export(tmp_path, config, "fp32", portable=True)
        assert portable.shape.head_dim == head_dim
        assert relative_difference(logits_of(portable, "fp32"), expected) <= TOLERANCE


@pytest.mark.parametrize("head_dim", [6, 100])
def test_padded_heads_run_in_every_precision(head_dim, tmp_path):
    config = LLAMA | {"vocab_size": VOCAB_SIZE, "head_dim": head_dim}
    expected = logits_of_transformers(make_checkpoint(tmp_path / "theirs", config))
    bundle = export(tmp_path, config, ",".join(PRECISIONS))
    for precision in PRECISIONS:
        weights = PRECISIONS[precision].weights
        limit = {"fp32": 1e-6, "fp16": 1e-4, "q4": 1.0, "auto": 0.05}.get(weights) or KL_LIMITS[weights]
        limit += 0.05 * PRECISIONS[precision].has_int8_cache
        assert kl(expected, logits_of(bundle, precision)) < limit, precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_weights_are_exported_as_transformers_reads_them(dtype, tmp_path):
    config = LLAMA | {"vocab_size": VOCAB_SIZE, "torch_dtype": str(dtype).removeprefix("torch.")}
    theirs = make_checkpoint(tmp_path / "theirs", config, dtype=dtype)
    bundle = export(tmp_path, config, "fp32")
    assert relative_difference(logits_of(bundle, "fp32"), logits_of_transformers(theirs)) <= TOLERANCE


def test_a_pytorch_file_gives_the_same_bundle(tmp_path):
    config = LLAMA | {"vocab_size": VOCAB_SIZE}
    theirs = make_checkpoint(tmp_path / "theirs", config)
    before = export(tmp_path, config, "fp32").manifest["files"]
    torch.save(theirs.state_dict(), tmp_path / "theirs" / "pytorch_model.bin")
    (tmp_path / "theirs" / "model.safetensors").unlink()
    assert export(tmp_path, config, "fp32").manifest["files"] == before


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers so
def test_an_adapter_is_exported_merged_with_its_base(tmp_path):
    peft = pytest.importorskip("peft")
    theirs = make_checkpoint(tmp_path / "theirs", LLAMA | {"vocab_size": VOCAB_SIZE})
    make_tokenizer().save(str(tmp_path / "theirs" / "tokenizer.json"))
    tuned = peft.get_peft_model(theirs, peft.LoraConfig(target_modules=["q_proj", "up_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tuned.peft_config["default"].base_model_name_or_path = str(tmp_path / "theirs")
    tuned.save_pretrained(tmp_path / "adapter")
    source = open_checkpoint(tmp_path / "adapter")
    export_bundle(source, tmp_path / "bundle", parse_precisions("fp32"), source="test", progress=False)
    expected = logits_of_transformers(tuned.merge_and_unload().eval())
    assert relative_difference(logits_of(Bundle.open(tmp_path / "bundle"), "fp32"), expected) <= TOLERANCE
