"""Draws the tiny bundle that lies beside this file: `python -m tests.goldens.make_tiny_bundle`.

Its weights are random and its text is gibberish; what it has is every part of a bundle in 300 kB, so that the runtime
and the app are tested where torch is not installed. Run it again when the graph contract changes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from export.bundle import export_bundle
from export.precisions import parse_precisions
from model import Checkpoint, ModelConfig, TransformerModel, save_checkpoint
from model.files import write_json

BUNDLE = Path(__file__).parent / "tiny-bundle"
VOCAB_SIZE = 320
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = """Once upon a time there was a small grey mouse who lived under the stairs. Every night the mouse went out
to look for crumbs, and every morning the mouse came home with a story. The cat knew the mouse, and the mouse knew the
cat, and neither of them said a word about it."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONFIG = ModelConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=192,
    initializer_range=0.4,  # wide, so that the next token is far from uniform and greedy text does not hang on ties
    bos_token_id=0,
    eos_token_id=(0, 2),
)


def make_tokenizer() -> Tokenizer:
    """A byte-level BPE of 320 tokens that puts its BOS before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    return tokenizer


def main() -> None:
    """Make the checkpoint in a temporary folder, and its bundle here."""
    torch.manual_seed(0)
    model = TransformerModel(CONFIG)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "checkpoint"
        save_checkpoint(model, folder)
        make_tokenizer().save(str(folder / "tokenizer.json"))
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<|endoftext|>",
                "eos_token": "<|im_end|>",
                "chat_template": CHAT_TEMPLATE,
            },
        )
        export_bundle(
            Checkpoint(folder), BUNDLE, parse_precisions("fp32,int8"), source="tests/goldens/make_tiny_bundle.py"
        )


if __name__ == "__main__":
    main()
