"""docs/models.md: its table says what is tested, and its chat templates are seen to work with their models here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from export.bundle import export_bundle
from export.precisions import parse_precisions
from model import Checkpoint
from runtime import LanguageModel
from runtime.sampling.options import SamplingOptions
from tests.export.test_family import KL_LIMITS, ROUNDED
from tests.family import CONFIGS, make_checkpoint
from tests.goldens.make_tiny_bundle import VOCAB_SIZE, make_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATES = REPOSITORY / "tests" / "runtime" / "text" / "templates"
NEW_TOKENS = 6


@dataclass(frozen=True)
class Row:
    """A row of the table: its first cell, which configs of `tests/family.py` stand for it, and its chat templates."""

    model_type: str
    configs: tuple[str, ...]
    templates: tuple[str, ...]


ROWS = {
    "Llama 2, TinyLlama, SmolLM, SmolLM2": Row(
        "llama",
        ("llama2", "tinyllama", "smollm2", "llama with biases"),
        ("llama2", "zephyr", "chatml_default_system"),
    ),
    "Llama 3.1, 3.2, 3.3": Row(
        "llama",
        ("llama3, old spelling", "llama3, new spelling"),
        ("llama3", "llama3_tools", "llama3_builtin_tools"),
    ),
    "Mistral": Row(
        "mistral",
        ("mistral", "mistral, an absent window", "mistral, a window"),
        ("mistral", "mistral_tools", "mistral_tekken", "mistral_tekken_tools"),
    ),
    "Qwen2, Qwen2.5": Row(
        "qwen2", ("qwen2", "qwen2, tied, yarn", "qwen2, windows"), ("qwen2_tools", "hermes_tools", "deepseek")
    ),
    "Qwen3": Row("qwen3", ("qwen3", "qwen3, biases", "qwen3, windows"), ("qwen3_reasoning", "qwen3_coder")),
    "SmolLM3": Row("smollm3", ("smollm3", "smollm3, its layers", "smollm3, windows"), ("smollm3",)),
}
CHATS = [(name, template) for name, row in ROWS.items() for template in row.templates]
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"properties": {}}}}
QUESTIONS = [
    ([{"role": "user", "content": "Who are you? Ünï"}], {}),
    ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "a"}], {}),
    ([{"role": "user", "content": "Call f."}], {"tools": [TOOL]}),
]


def table_rows() -> dict[str, list[str]]:
    lines = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[1]: row for row in cells[2:]}


def test_the_table_says_what_is_tested():
    table = table_rows()
    assert table.keys() == ROWS.keys() | {"our own variant"}
    for name, row in ROWS.items():
        assert row.configs
        assert CONFIGS.keys() >= {*row.configs}
        assert ROUNDED & {*row.configs}
        assert {CONFIGS[config]["model_type"] for config in row.configs} == {row.model_type}
        model_type, _, _, torch_cell, onnx_cell, rounded_cell, template_cell = table[name]
        assert model_type == f"`{row.model_type}`"
        assert (torch_cell, onnx_cell, rounded_cell) == ("yes", "yes", "yes")
        assert re.findall(r"`(\w+)`", template_cell) == [*row.templates]
    assert table["our own variant"][3:] == ["no oracle", "equal to PyTorch", "", ""]


def test_the_heads_of_the_table_are_the_precisions_tested():
    header = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8").partition("| `model_type` |")[2]
    assert header.splitlines()[0].split("|")[4].strip() == ", ".join(KL_LIMITS)


def make_chat_model(folder: Path, config: dict, template: str | dict[str, str]):
    """A random model with a tokenizer and chat templates, as transformers stores them; returns transformers' model."""
    theirs = make_checkpoint(folder, config | {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 4096})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(), bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return theirs


def test_templates_in_files_of_their_own_come_along(tmp_path):
    templates = {
        name: (TEMPLATES / f"{file}.jinja").read_text(encoding="utf-8")
        for name, file in (("default", "chatml"), ("tool_use", "hermes_tools"), ("rag", "granite"))
    }
    make_chat_model(tmp_path / "theirs", CONFIGS["llama2"], templates)
    assert (tmp_path / "theirs" / "additional_chat_templates" / "tool_use.jinja").is_file()
    source = Checkpoint(tmp_path / "theirs")
    export_bundle(source, tmp_path / "bundle", parse_precisions("fp32"), source="test", progress=False)
    ours = LanguageModel.load(tmp_path / "bundle").chat_template
    for folder in ("theirs", "bundle"):
        oracle = AutoTokenizer.from_pretrained(tmp_path / folder)
        assert oracle.chat_template == templates
        for messages, options in QUESTIONS:
            expected = oracle.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **options)
            assert ours.render(messages, **options) == expected


@pytest.mark.parametrize(("name", "template"), CHATS)
@torch.no_grad()
def test_a_chat_is_transformers_token_for_token(name, template, tmp_path):
    """Of a random model in fp32: the prompt by its template and tokenizer, and the greedy tokens that follow."""
    source = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    theirs = make_chat_model(tmp_path / "theirs", CONFIGS[ROWS[name].configs[0]], source)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    checkpoint = Checkpoint(tmp_path / "theirs")
    export_bundle(checkpoint, tmp_path / "bundle", parse_precisions("fp32"), source="test", progress=False)
    ours = LanguageModel.load(tmp_path / "bundle", precision="fp32")
    for messages, options in QUESTIONS:
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, **options
        )
        expected = theirs.generate(**prompt, do_sample=False, max_new_tokens=NEW_TOKENS)[0].tolist()
        text = ours.chat_template.render(messages, **options)
        ids = ours.tokenizer.encode_prompt(text, add_special_tokens=False)
        found = ours.generate(ids, SamplingOptions(temperature=0.0, max_new_tokens=NEW_TOKENS))
        if found.finish_reason == "stop":
            assert expected.pop() in ours.bundle.eos_token_ids
        assert ids + found.token_ids == expected
