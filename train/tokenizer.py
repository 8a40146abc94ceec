"""Byte-level BPE tokenizers: train one, or take a ready one; save it so that transformers loads it.

One special token, `<|endoftext|>`, begins and ends every text and pads batches. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from model.files import replacing_file, write_json
from train.errors import DataError

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.json"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE (as GPT-2's) of at most `vocab_size` tokens; `<|endoftext|>` is id 0.

    Every text can be encoded, and decoding gives it back, for every byte is a token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # A prompt is the beginning of a document, so it stands where documents begin: after the token.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))]
    )
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a `tokenizer.json`, or the one in a folder.

    Raises:
        DataError: it is missing or broken, or it has no `<|endoftext|>`.
    """
    path = Path(path)
    path = path / TOKENIZER_FILE if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"there is no tokenizer {path}; make one with: python -m train tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the tokenizers library raises bare Exception
        raise DataError(f"{path} is not a tokenizer.json: {error}") from None
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        raise DataError(f"{path} has no token {END_OF_TEXT}, which training puts between documents")
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path, *, max_length: int) -> list[Path]:
    """Write the files from which transformers' AutoTokenizer makes the same tokenizer; return their paths.

    Args:
        tokenizer: with a token `<|endoftext|>`.
        folder: made if need be.
        max_length: the longest text, in tokens, that the model takes.
    """
    folder = Path(folder)
    with replacing_file(folder / TOKENIZER_FILE) as temporary:
        tokenizer.save(str(temporary))
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", config | special)
    write_json(folder / "special_tokens_map.json", special)
    return [folder / name for name in (TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json")]
