"""GGUF files: the model, its config and its tokenizer are what transformers and the originals say."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, GPT2Tokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS, convert_gguf_tokenizer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from model import CheckpointError, CheckpointNotFoundError, ConfigError, load_checkpoint, open_checkpoint
from model.gguf_tokenizer import WORD_SPLITS
from model.sources import tokenizer_folder
from runtime.generation_config import generation_defaults
from runtime.text.special_tokens import read_special_tokens
from tests.family import CONFIGS, LLAMA, make_checkpoint
from tests.gguf_files import byte_level_metadata, sentencepiece_metadata, write_gguf

pytest.importorskip("gguf", reason="GGUF files need the package gguf")
IDS = torch.arange(3, 43)[None]
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16}
# Config -> what the converter writes beside the sizes.
FILES = {
    "llama2": {},
    "tinyllama": {},
    "smollm2": {},
    "llama with biases": {},
    "linear": {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    "yarn": YARN,
    "yarn, betas": YARN | {"rope.scaling.yarn_beta_fast": 2.0, "rope.scaling.yarn_beta_slow": 0.5},
    "mistral": {},
    "mistral, a window": {"attention.sliding_window": 7},
    "qwen2": {},
    "qwen2, tied, yarn": YARN,
    "qwen3": {},
    "smollm3": {},
}
BETAS = CONFIGS["yarn"]["rope_scaling"] | {"beta_fast": 2.0, "beta_slow": 0.5}
CONFIGS_HERE = CONFIGS | {"yarn, betas": LLAMA | {"rope_scaling": BETAS}}
TEXTS = (
    "Once upon a time, there was a girl named Lily.",
    "  two spaces\n\n\nand\ttabs \n  at ends  ",
    "I'll WE'LL don't 1234567890 3.14 x=y+z; foo_bar(); // ...",
    "Ünïcödé e\u0301 日本語 あ 😀🚀 \u00a0\u200b end",
    "",
)
# Upper and lower case within a word, marks, titlecase letters, digits, slashes, ends of lines.
CASES = (
    "HTMLParser XMLHttpRequest iPhone McDonald's ABCdef abcDEF aBcD",
    "ǅungla Ǆ ʰmod a\u0301B\u0301c ñÑ ΑΒγδ привет МИР",
    "a/b//c\n/d !!/\r\n\r\n ?/ 12345 ١٢٣ ²³ 1a2b",
    " \n \t\n  x'S it'll IT'LL ’s",
)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture
def tiny(tmp_path):
    return make_checkpoint(tmp_path / "theirs", LLAMA | {"intermediate_size": 96})


@pytest.mark.parametrize("name", FILES)
@torch.no_grad()
def test_logits_are_those_before_conversion(name, tmp_path):
    theirs = make_checkpoint(tmp_path / "theirs", CONFIGS_HERE[name])
    architecture = theirs.config.model_type.replace("mistral", "llama")
    metadata = {f"{architecture}.{key}": value for key, value in FILES[name].items()}
    file = write_gguf(tmp_path / "model.gguf", theirs, metadata=metadata)
    assert relative(load_checkpoint(file)(IDS), theirs(IDS).logits) <= 1e-5


@pytest.mark.parametrize(("dtype", "rounding"), [("F32", 1e-6), ("F16", 0.01), ("BF16", 0.05), ("Q8_0", 0.2)])
@torch.no_grad()
def test_every_stored_type_is_read_as_transformers_does(dtype, rounding, tiny, tmp_path):
    file = write_gguf(tmp_path / "model.gguf", tiny, dtype=dtype)
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32).eval()
    ours = load_checkpoint(file)(IDS)
    assert relative(ours, oracle(IDS).logits) <= 1e-5
    assert relative(ours, tiny(IDS).logits) <= rounding


@pytest.mark.parametrize("name", ["llama3, old spelling", "llama3, new spelling", "other bounds"])
@torch.no_grad()
def test_rope_factors_become_llama3_scaling(name, tmp_path):
    other = {"low_freq_factor": 0.5, "high_freq_factor": 3.0, "original_max_position_embeddings": 40}
    base = CONFIGS["llama3, old spelling"]
    config = CONFIGS.get(name) or base | {"rope_scaling": base["rope_scaling"] | other}
    theirs = make_checkpoint(tmp_path / "theirs", config)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs.config, torch.device("cpu"))
    plain = theirs.config.rope_parameters["rope_theta"] ** (-torch.arange(len(scaled)) / len(scaled))
    file = write_gguf(
        tmp_path / "model.gguf", theirs, extra={"rope_freqs.weight": (plain / scaled).numpy().astype(np.float32)}
    )
    assert open_checkpoint(file).config.rope_scaling.rope_type == "llama3"
    assert relative(load_checkpoint(file)(IDS), theirs(IDS).logits) <= 1e-5


@pytest.mark.parametrize(
    ("architecture", "metadata", "named"),
    [
        ("gemma", {}, "architecture 'gemma'"),
        ("llama", {"llama.expert_count": 8}, "expert_count = 8"),
        ("llama", {"llama.rope.scaling.type": "longrope"}, "longrope"),
        ("llama", {"llama.rope.dimension_count": 4}, "rope.dimension_count = 4"),
        ("llama", {"llama.attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("llama", {"llama.feed_forward_length": [96, 64, 96, 96]}, "feed_forward_length"),
        ("llama", {"llama.block_count": None}, r"lacks llama\.block_count"),
        ("qwen2", {"qwen2.attention.sliding_window": 8}, "sliding_window = 8"),
        ("llama", {"tokenizer.ggml.eos_token_id": 4096}, "4096"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(architecture, metadata, named, tiny, tmp_path):
    file = write_gguf(tmp_path / "model.gguf", tiny, architecture=architecture, metadata=metadata)
    with pytest.raises(ConfigError, match=named) as caught:
        open_checkpoint(file)
    assert str(file) in str(caught.value)


def test_other_rope_factors_are_refused_by_name(tiny, tmp_path):
    factors = np.linspace(1, 5, 8, dtype=np.float32)[::-1].copy()
    file = write_gguf(tmp_path / "model.gguf", tiny, extra={"rope_freqs.weight": factors})
    with pytest.raises(ConfigError, match=r"rope_freqs\.weight"):
        open_checkpoint(file)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"omit": ("blk.1.attn_k.weight",)}, r"lacks blk\.1\.attn_k\.weight"),
        ({"extra": {"blk.0.ffn_gate_inp.weight": np.ones((4, 64), np.float32)}}, "has blk.0.ffn_gate_inp"),
        ({"metadata": {"llama.feed_forward_length": 64}}, r"shape \[96, 64\], the metadata ask for \[64, 64\]"),
        ({"metadata": {"split.count": 3}}, "one of 3 parts"),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_named(options, named, tiny, tmp_path):
    file = write_gguf(tmp_path / "model.gguf", tiny, **options)
    with pytest.raises(CheckpointError, match=named):
        open_checkpoint(file)


def test_numbers_that_are_not_finite_are_refused_by_name(tiny, tmp_path):
    tiny.model.embed_tokens.weight.data[5, 3] = float("nan")
    file = write_gguf(tmp_path / "model.gguf", tiny)
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight holds numbers that are NaN"):
        load_checkpoint(file)


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.01, 0.1, 0.5, 0.99, 0.99999])
def test_a_cut_off_file_is_one_line(share, tiny, tmp_path, shared_data):
    metadata = sentencepiece_metadata(shared_data / "stories260k" / "tokenizer.json")
    file = write_gguf(tmp_path / "model.gguf", tiny, metadata=metadata)
    whole = file.read_bytes()
    file.write_bytes(whole[: max(int(len(whole) * share), 5)])
    with pytest.raises(CheckpointError, match="cut off") as caught:
        open_checkpoint(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("offset", [4, 8, 16, 24, 40])
def test_a_corrupted_header_is_one_line(offset, tiny, tmp_path):
    file = write_gguf(tmp_path / "model.gguf", tiny)
    damaged = bytearray(file.read_bytes())
    damaged[offset : offset + 8] = b"\xff" * 8
    file.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"model\.gguf") as caught:
        open_checkpoint(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("empty.gguf", b"", "is empty"),
        ("model.gguf", b"PK\x03\x04" * 20, "is not a GGUF file"),
        ("model.bin", b"PK\x03\x04" * 20, "is not a GGUF file"),
        ("absent.gguf", None, "there is no file"),
    ],
)
def test_a_file_of_another_kind_is_one_line(name, content, named, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError if content is not None else CheckpointNotFoundError, match=named):
        open_checkpoint(tmp_path / name)


def test_without_the_package_the_error_names_it(tiny, tmp_path, monkeypatch):
    file = write_gguf(tmp_path / "model.gguf", tiny)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ImportError, match="pip install gguf"):
        open_checkpoint(file)


def tokenizer_of(tiny, folder: Path, metadata: dict) -> Tokenizer:
    source = open_checkpoint(write_gguf(folder / "model.gguf", tiny, metadata=metadata))
    return Tokenizer.from_file(str(tokenizer_folder(source) / "tokenizer.json"))


def test_a_byte_level_tokenizer_is_the_original(tiny, tmp_path, shared_data):
    original = shared_data / "smollm2-tokenizer" / "tokenizer.json"
    metadata = byte_level_metadata(original, "smollm", add_bos_token=False)
    ours = tokenizer_of(tiny, tmp_path, metadata)
    cases = json.loads((shared_data / "reference" / "tokenization_cases.json").read_text())["cases"]
    assert [ours.encode(case["text"]).ids for case in cases] == [case["ids"] for case in cases]
    assert json.loads(ours.to_str()) == json.loads(Tokenizer.from_file(str(original)).to_str())


@pytest.mark.parametrize("adds_bos", [True, False, None])
def test_a_sentencepiece_tokenizer_is_the_original(adds_bos, tiny, tmp_path, shared_data):
    path = shared_data / "stories260k" / "tokenizer.json"
    original = Tokenizer.from_file(str(path))
    more = {"bos_token_id": 1, "eos_token_id": 2} | ({} if adds_bos is None else {"add_bos_token": adds_bos})
    ours = tokenizer_of(tiny, tmp_path, sentencepiece_metadata(path, **more))
    corpus = (shared_data / "corpora").rglob("*.txt")
    texts = [*TEXTS, "a<s>b</s> c", *(file.read_text(encoding="utf-8")[:20_000] for file in corpus)]
    for text in texts:
        expected = original.encode(text, add_special_tokens=adds_bos is not False).ids
        assert ours.encode(text).ids == expected
        assert ours.decode(expected) == original.decode(expected)


@pytest.mark.parametrize(("pre", "theirs"), [("gpt-2", GPT2Tokenizer), ("qwen2", Qwen2Tokenizer)])
def test_words_are_split_as_by_transformers(pre, theirs, tiny, tmp_path, shared_data):
    path = shared_data / "smollm2-tokenizer" / "tokenizer.json"
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    expected = theirs(vocab=model["vocab"], merges=merges)
    ours = tokenizer_of(tiny, tmp_path, byte_level_metadata(path, pre))
    for text in TEXTS:
        assert ours.encode(text).ids == expected(text)["input_ids"]


@pytest.mark.parametrize("pre", sorted(WORD_SPLITS.keys() & GGUF_PRE_TOKENIZER_SPLITS.keys()))
def test_words_are_split_as_transformers_splits_them_for_a_gguf(pre, tiny, tmp_path, shared_data):
    metadata = byte_level_metadata(shared_data / "smollm2-tokenizer" / "tokenizer.json", pre)
    ours = tokenizer_of(tiny, tmp_path, metadata)
    described = {"pre_tokenizer_type": pre, "tokenizer_type": "gpt2"}
    described |= {name: metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "merges")}
    theirs, _ = convert_gguf_tokenizer("llama", described)
    for text in (*TEXTS, *CASES):
        assert ours.pre_tokenizer.pre_tokenize_str(text) == theirs.pre_tokenizer.pre_tokenize_str(text)


def test_the_kinds_of_words_that_transformers_knows_are_tested():
    assert WORD_SPLITS.keys() - GGUF_PRE_TOKENIZER_SPLITS.keys() == {"gpt-2", "smollm", "starcoder"}  # by ids, above


def test_llama3_splits_words_as_tiktoken_does():
    assert WORD_SPLITS["llama-bpe"].pattern == inspect.signature(TikTokenConverter).parameters["pattern"].default


SAMPLING = {"temp": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "penalty_repeat": 1.1}


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (
            SAMPLING,
            {
                "temperature": 0.6,
                "top_k": 20,
                "top_p": 0.9,
                "min_p": 0.05,
                "repetition_penalty": 1.1,
                "do_sample": True,
            },
        ),
        ({"temp": 0.0, "top_p": 0.9}, {"do_sample": False, "top_p": 0.9}),
        ({"top_k": 0, "penalty_repeat": 1.2, "penalty_last_n": 0, "top_p": 0.5}, {"top_p": 0.5}),
        ({"mirostat": 2, "top_p": 0.5}, {"top_p": 0.5}),
    ],
)
def test_sampling_defaults_are_the_files(stored, expected, tiny, tmp_path, shared_data, caplog):
    metadata = sentencepiece_metadata(shared_data / "stories260k" / "tokenizer.json", bos_token_id=1, eos_token_id=2)
    metadata |= {f"general.sampling.{name}": value for name, value in stored.items()}
    source = open_checkpoint(write_gguf(tmp_path / "model.gguf", tiny, metadata=metadata))
    (path,) = (path for path in source.side_files() if path.name == "generation_config.json")
    config = json.loads(path.read_text())
    assert config == {"bos_token_id": 1, "eos_token_id": 2} | expected
    assert generation_defaults(config).keys() >= expected.keys() - {"do_sample"}
    assert ("mirostat" in caplog.text) == ("mirostat" in stored)


def test_a_file_without_sampling_defaults_has_no_generation_config(tiny, tmp_path, shared_data):
    metadata = sentencepiece_metadata(shared_data / "stories260k" / "tokenizer.json")
    source = open_checkpoint(write_gguf(tmp_path / "model.gguf", tiny, metadata=metadata))
    assert {path.name for path in source.side_files()} == {"tokenizer.json", "tokenizer_config.json"}


def test_padding_rows_are_not_tokens(tiny, tmp_path, shared_data):
    metadata = sentencepiece_metadata(shared_data / "stories260k" / "tokenizer.json")
    metadata["tokenizer.ggml.tokens"] += ["[PAD512]", "[PAD513]"]
    metadata["tokenizer.ggml.token_type"] += [5, 5]
    metadata["tokenizer.ggml.scores"] += [-1e4, -1e4]
    assert tokenizer_of(tiny, tmp_path, metadata).get_vocab_size() == 512


def test_template_and_special_tokens_come_along(tiny, tmp_path, shared_data):
    path = shared_data / "stories260k" / "tokenizer.json"
    ids = {"bos_token_id": 1, "eos_token_id": 2, "eot_token_id": 5, "unknown_token_id": 0}
    metadata = sentencepiece_metadata(path, **ids) | {"tokenizer.chat_template": "{{ messages[0]['content'] }}"}
    source = open_checkpoint(write_gguf(tmp_path / "model.gguf", tiny, metadata=metadata))
    assert source.config.eos_token_ids == (2, 5)
    folder = tokenizer_folder(source)
    assert read_special_tokens(folder) == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == "{{ messages[0]['content'] }}"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tokenizer.ggml.pre": "poro-chat"}, "poro-chat"),
        ({"tokenizer.ggml.pre": None}, "None"),
        ({"tokenizer.ggml.model": "bert"}, "bert"),
        ({"tokenizer.ggml.model": None}, "no tokenizer"),
        ({"tokenizer.ggml.merges": ["nosuch token"]}, "broken"),
    ],
)
def test_an_unknown_tokenizer_names_the_way_out(changes, named, tiny, tmp_path, shared_data):
    folder = shared_data / "smollm2-tokenizer"
    metadata = byte_level_metadata(folder / "tokenizer.json", "smollm") | changes
    file = write_gguf(tmp_path / "model.gguf", tiny, metadata=metadata)
    with pytest.raises(CheckpointError, match=rf"{named}.*--tokenizer"):
        tokenizer_folder(open_checkpoint(file))
    assert tokenizer_folder(open_checkpoint(file, tokenizer=folder)) == folder


def test_another_tokenizer_must_be_one(tiny, tmp_path):
    file = write_gguf(tmp_path / "model.gguf", tiny)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        open_checkpoint(file, tokenizer=tmp_path)
    with pytest.raises(CheckpointError, match="GGUF"):
        open_checkpoint(tmp_path / "theirs", tokenizer=tmp_path)


@pytest.mark.slow
def test_the_real_tokenizer_is_the_original(real_gguf, shared_data):
    ours = Tokenizer.from_file(str(tokenizer_folder(open_checkpoint(real_gguf)) / "tokenizer.json"))
    cases = json.loads((shared_data / "reference" / "tokenization_cases.json").read_text())["cases"]
    assert [ours.encode(case["text"]).ids for case in cases] == [case["ids"] for case in cases]
