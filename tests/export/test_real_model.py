"""A real instruction model, exported: its greedy texts are transformers', and its chat ends each of its turns."""

from __future__ import annotations

import pytest
import torch

from export.__main__ import main
from runtime import LanguageModel
from runtime.chat_session import ChatSession
from runtime.sampling.options import SamplingOptions

pytestmark = pytest.mark.slow

NEW_TOKENS = 48
PROMPTS = [
    "Once upon a time, a small boat",
    "The capital of France is",
    "Water boils at",
    "def fibonacci(n):\n",
    "import numpy as np\n\ndef softmax(x):\n    ",
    "1, 1, 2, 3, 5, 8,",
    "Dear Ms. Okafor,\n\nThank you for your letter of",
    "Die Hauptstadt von Österreich ist",
    "Il était une fois",
    "日本の首都は",
    "Q: Why is the sky blue?\nA:",
    "<h1>Our garden</h1>\n<p>",
    "| country | capital |\n|---|---|\n| Peru |",
    "To bake bread you need flour, water,",
    "    ",
]
QUESTIONS = [
    "What is the capital of Italy? Answer in one word.",
    "Name three colours.",
    "What is 2 + 2?",
    "Write one sentence about the sea.",
    "Thank you! What did I ask you first?",
]
TEMPLATE_TEXTS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "assistant\n", "user\n", "system\n")


@pytest.fixture(scope="module")
def bundle(real_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "real"
    assert main(["run", str(real_model), "--out", str(out), "--precisions", "fp32,int8", "--no-compare"]) == 0
    return out


@torch.no_grad()
def test_greedy_continuations_are_transformers_token_for_token(real_model, bundle):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float32).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(real_model)
    ours = LanguageModel.load(bundle, precision="fp32")
    chats = [
        their_tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        for question in QUESTIONS
    ]
    prompts = [*PROMPTS, *chats]
    assert len(prompts) == 20
    for prompt in prompts:
        ids = their_tokenizer(prompt, return_tensors="pt")
        output = theirs.generate(**ids, do_sample=False, max_new_tokens=NEW_TOKENS)[0, ids["input_ids"].shape[1] :]
        expected = output.tolist()
        found = ours.generate(prompt, SamplingOptions(temperature=0.0, max_new_tokens=NEW_TOKENS))
        if found.finish_reason == "stop":  # the end is among their tokens, and not among ours
            assert expected.pop() in ours.bundle.eos_token_ids
        assert found.token_ids == expected, prompt


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_chat_ends_its_turns(precision, bundle):
    model = LanguageModel.load(bundle, precision=precision)
    ends = {model.tokenizer.token_id("<|im_end|>")}
    assert model.bundle.eos_token_ids == ends
    session = ChatSession(model)
    for question in QUESTIONS:
        deltas = list(session.ask(question, SamplingOptions(temperature=0.0, max_new_tokens=400)))
        text = "".join(delta.text for delta in deltas)
        assert deltas[-1].finish_reason == "stop", text
        assert text.strip()
        assert not any(leaked in text for leaked in TEMPLATE_TEXTS), text
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * len(QUESTIONS)
