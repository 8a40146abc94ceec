"""Special tokens have the names that transformers gives a chat template."""

from __future__ import annotations

import json
import shutil

import pytest

from runtime import Bundle
from runtime.errors import BundleError
from runtime.text.chat_template import ChatTemplate
from runtime.text.special_tokens import read_special_tokens
from tests.runtime.files import edit_json

FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
START = {"content": "<|im_start|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
DECODER = {"added_tokens_decoder": {"1": {**START, "special": True}}}
# tokenizer_config.json and special_tokens_map.json, beside the tokenizer.json of SmolLM2 or of stories260k.
FILES = {
    "neither": (None, None),
    "config alone": ({**FAST, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}, None),
    "map alone": (None, {"bos_token": "<|im_start|>", "eos_token": {**START, "content": "<|im_end|>"}}),
    "map beside a config": (FAST, {"bos_token": START, "unk_token": "<|endoftext|>"}),
    "map against config": ({**FAST, "bos_token": "<|endoftext|>", "pad_token": "<|im_end|>"}, {"bos_token": START}),
    "map that is redundant": (
        {**FAST, **DECODER, "bos_token": "<|endoftext|>"},
        {"bos_token": START, "unk_token": "x"},
    ),
    "token as object": ({**FAST, "unk_token": {"__type": "AddedToken", **START}}, None),
    "none": ({**FAST, "bos_token": None, "eos_token": "<|im_end|>"}, None),
    "empty": ({**FAST, "eos_token": ""}, None),
    "all standard names": ({**FAST, "sep_token": "a", "cls_token": "b", "mask_token": "c", "pad_token": "d"}, None),
    "names of its own": ({**FAST, "image_token": "<img>", "extra_special_tokens": {"eot": "<eot>"}}, None),
    "names of its own in the map": (FAST, {"image_token": "<img>"}),
    "additional ones": ({**FAST, "additional_special_tokens": ["<|im_start|>"]}, {"additional_special_tokens": ["x"]}),
    "flags": ({**FAST, "add_bos_token": True, "add_eos_token": False}, None),
    "defaults of llama": ({"tokenizer_class": "LlamaTokenizer"}, {"bos_token": "</s>"}),
    "defaults of llama, fast": ({"tokenizer_class": "LlamaTokenizerFast", "bos_token": None, "unk_token": "x"}, None),
    "defaults of gpt2": ({"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>"}, None),
    "defaults of qwen2": ({"tokenizer_class": "Qwen2Tokenizer"}, None),
    "another class": ({"tokenizer_class": "Foo"}, None),
}


def folder_with(tmp_path, tokenizer_json, config, special_map):
    shutil.copyfile(tokenizer_json, tmp_path / "tokenizer.json")
    for name, contents in (("tokenizer_config", config), ("special_tokens_map", special_map)):
        if contents is not None:
            (tmp_path / f"{name}.json").write_text(json.dumps(contents))
    return tmp_path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("base", ["smollm2-tokenizer", "stories260k"])
@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
def test_special_tokens_are_those_of_transformers(files, base, shared_data, tmp_path):
    transformers = pytest.importorskip("transformers")
    kind = (files[0] or {}).get("tokenizer_class")
    if base == "stories260k" and kind in ("GPT2Tokenizer", "Qwen2Tokenizer"):
        pytest.skip("transformers makes a byte-level tokenizer of it, which it is not")
    folder = folder_with(tmp_path, shared_data / base / "tokenizer.json", *files)
    shutil.copyfile(shared_data / base / "config.json", tmp_path / "config.json")
    assert read_special_tokens(folder) == transformers.AutoTokenizer.from_pretrained(folder).special_tokens_map


@pytest.mark.parametrize("value", [3, ["<s>"], {}, {"content": 3}, True])
def test_a_special_token_that_is_no_text_is_refused_by_name(value, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"unk_token": value}))
    with pytest.raises(BundleError, match=r"tokenizer_config\.json: unk_token must be a text"):
        read_special_tokens(tmp_path)


def test_a_template_sees_tokens_that_only_the_map_names(broken_bundle):
    source = "{{ bos_token }}{{ unk_token }}{% if eos_token is defined %}{{ 'eos' }}{% endif %}"
    config = dict.fromkeys(("bos_token", "eos_token", "unk_token", "added_tokens_decoder"))
    edit_json(broken_bundle / "tokenizer_config.json", **config, chat_template=source)
    edit_json(broken_bundle / "special_tokens_map.json", bos_token={"content": "<b>"}, unk_token="<u>", eos_token=None)
    assert ChatTemplate(Bundle.open(broken_bundle)).render([{"role": "user", "content": ""}]) == "<b><u>"
