"""Byte-level BPE tokenizers: train one or load one, and save it so that transformers loads it.

One special token, the separator, stands between documents. In a tokenizer trained here it is `<|endoftext|>`, which
also begins every prompt and is the padding token. A loaded tokenizer keeps its own special tokens.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from model.files import replacing_file, write_json, write_text
from runtime.text.special_tokens import read_special_tokens
from train.data.chat import CHATML, ChatTemplate
from train.data.config import END_OF_TEXT, TokenizerSection
from train.errors import DataError

TOKENIZER_FILE = "tokenizer.json"
SIDE_FILES = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE, as GPT-2's, of at most `vocab_size` tokens; `<|endoftext|>` has id 0.

    Every byte is a token, so every text can be encoded, and decoding restores it.
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
    # A prompt is the beginning of a document, so the separator precedes it.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))]
    )
    return tokenizer


@dataclass(frozen=True)
class CorpusTokenizer:
    """A tokenizer with its separator and, for conversations, its chat template."""

    tokenizer: Tokenizer
    separator: str = END_OF_TEXT
    chat_template: ChatTemplate | None = None
    folder: Path | None = None  # of a loaded one

    @classmethod
    def load(cls, path: str | Path, section: TokenizerSection = TokenizerSection()) -> CorpusTokenizer:  # noqa: B008 - frozen
        """Read a `tokenizer.json`, or a folder that holds one and perhaps its side files.

        Args:
            path: the file or the folder.
            section: may name the separator and a chat template.

        Raises:
            DataError: it is missing or broken, or has no such separator.
        """
        tokenizer = load_tokenizer(path)
        folder = Path(path) if Path(path).is_dir() else None
        settings = _settings(folder)
        special_tokens = {} if folder is None else read_special_tokens(folder)
        separator = section.separator or _separator(tokenizer, special_tokens)
        if separator is None or tokenizer.token_to_id(separator) is None:
            raise DataError(
                f"{path} has no token {separator or END_OF_TEXT}; name the token to put between documents as "
                "tokenizer.separator"
            )
        return cls(tokenizer, separator, _chat_template(tokenizer, section, folder, settings, special_tokens), folder)

    @property
    def separator_id(self) -> int:
        """The id of the token between documents."""
        token_id: int = self.tokenizer.token_to_id(self.separator)
        return token_id

    def save(self, folder: str | Path, *, max_length: int, with_chat: bool = False) -> list[Path]:
        """Write the files from which transformers' AutoTokenizer makes the same tokenizer. Returns their paths.

        Args:
            folder: made if necessary.
            max_length: the model's context in tokens; the settings of a loaded tokenizer are kept.
            with_chat: whether to write the chat template too; a model that has not learned it should have none.
        """
        folder = Path(folder)
        with replacing_file(folder / TOKENIZER_FILE) as temporary:
            self.tokenizer.save(str(temporary))
        ready = [] if self.folder is None else [self.folder / name for name in SIDE_FILES]
        for path in filter(Path.is_file, ready):
            shutil.copyfile(path, folder / path.name)
        if not (folder / "tokenizer_config.json").is_file():
            _write_settings(folder, self.separator, max_length)
        if with_chat and self.chat_template is not None:
            write_text(folder / "chat_template.jinja", self.chat_template.source)
        return [folder / name for name in (TOKENIZER_FILE, *SIDE_FILES) if (folder / name).is_file()]


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a `tokenizer.json`, or the one in a folder, without the truncation and padding that it may store.

    Raises:
        DataError: it is missing or broken.
    """
    path = Path(path)
    path = path / TOKENIZER_FILE if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"there is no tokenizer {path}; make one with: python -m train tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the tokenizers library raises bare Exception
        raise DataError(f"{path} is not a tokenizer.json: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _settings(folder: Path | None) -> dict[str, Any]:
    """The contents of `tokenizer_config.json`; empty where there is none."""
    path = None if folder is None else folder / "tokenizer_config.json"
    if path is None or not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise DataError(f"{path} cannot be read: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if not isinstance(settings, dict):
        raise DataError(f"{path} does not hold a JSON object")
    return settings


def _separator(tokenizer: Tokenizer, special_tokens: Mapping[str, str]) -> str | None:
    """`<|endoftext|>` where the tokenizer has it, else its bos token, else its eos token."""
    named = (special_tokens.get(name) for name in ("bos_token", "eos_token", "pad_token"))
    candidates = (END_OF_TEXT, *filter(None, named))
    return next((token for token in candidates if tokenizer.token_to_id(token) is not None), None)


def _chat_template(
    tokenizer: Tokenizer,
    section: TokenizerSection,
    folder: Path | None,
    settings: Mapping[str, Any],
    special_tokens: Mapping[str, str],
) -> ChatTemplate | None:
    """The recipe's template, or the tokenizer's own, or ChatML where the tokenizer has its tokens."""
    source: Any = settings.get("chat_template")
    if isinstance(source, list):  # several named templates
        named = (entry for entry in source if isinstance(entry, dict))
        source = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    if folder is not None and (folder / "chat_template.jinja").is_file():
        source = _template_text(folder / "chat_template.jinja")
    if section.chat_template is not None:
        source = _template_text(Path(section.chat_template))
    elif source is None and all(tokenizer.token_to_id(token) is not None for token in ("<|im_start|>", "<|im_end|>")):
        source = _template_text(CHATML)
    return None if source is None else ChatTemplate(source, special_tokens)


def _template_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the chat template {path} cannot be read: {error}") from None


def _write_settings(folder: Path, special_token: str, max_length: int) -> None:
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), special_token)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", config | special)
    write_json(folder / "special_tokens_map.json", special)
