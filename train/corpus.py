"""From a source of text to token ids: what is trained on, and what is held out.

A source is the built-in stories or a text file. Documents stand in the stream as `<|endoftext|> document
<|endoftext|> document ...`, so the token begins a text and ends it: a model prompted with it alone starts one, and
stops after it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from train.config import STORIES, DataSection
from train.errors import DataError
from train.stories import stories, true_entropy
from train.tokenizer import END_OF_TEXT


@dataclass(frozen=True)
class Texts:
    """The documents of a source, split; `true_entropy` in nats a document where it is known."""

    train: list[str]
    held_out: list[str]
    true_entropy: float | None = None


@dataclass(frozen=True)
class Corpus:
    """Token ids of a source, split.

    `train` and `held_out` are streams, int64 [tokens], that begin and end with `separator`, which also stands between
    their documents. `true_loss` is the least mean loss, in nats a token, that any model can have on such documents.
    """

    train: Tensor
    held_out: Tensor
    separator: int
    true_loss: float | None = None

    def fingerprint(self) -> str:
        """A hash of the training stream: two corpora with the same one are the same data in the same tokens."""
        return hashlib.sha256(self.train.numpy().tobytes()).hexdigest()[:16]


def read_texts(data: DataSection, seed: int) -> Texts:
    """The documents that a recipe asks for. Raises DataError where there are none."""
    if data.source != STORIES:
        return _read_file(Path(data.source), data.held_out)
    documents = list(islice(stories(seed), data.documents))
    return Texts(*_split(documents, data.held_out), true_entropy())


def _read_file(path: Path, held_out: float) -> Texts:
    """A file's documents, which `<|endoftext|>` separates; a file without it is one, and its end is held out."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"the text file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file: the byte at {error.start:,} is not UTF-8") from None
    if "\0" in text:
        raise DataError(f"{path} is not a text file: it holds a zero byte at character {text.index(chr(0)):,}")
    documents = [part.strip() for part in text.split(END_OF_TEXT) if part.strip()]
    if not documents:
        raise DataError(f"{path} holds no text")
    if len(documents) == 1:
        [whole] = documents
        cut = round(len(whole) * (1 - held_out))
        documents = [part for part in (whole[:cut], whole[cut:]) if part]
    if len(documents) == 1:
        raise DataError(f"{path} is too short to hold anything out")
    return Texts(*_split(documents, held_out))


def _split(documents: list[str], held_out: float) -> tuple[list[str], list[str]]:
    """The first ones, and the last share of them: at least one on either side."""
    count = min(max(1, round(len(documents) * held_out)), len(documents) - 1)
    return documents[:-count], documents[-count:]


def encode_texts(texts: Texts, tokenizer: Tokenizer) -> Corpus:
    """The texts as token ids."""
    separator = tokenizer.token_to_id(END_OF_TEXT)
    train, held_out = (_stream(documents, tokenizer, separator) for documents in (texts.train, texts.held_out))
    true_loss = None
    if texts.true_entropy is not None:
        # What is predicted of a document is its tokens and its end. Their mean number over so many documents is the
        # expected one to less than a per mille.
        predicted = len(train) - 1 + len(held_out) - 1
        true_loss = texts.true_entropy * (len(texts.train) + len(texts.held_out)) / predicted
    return Corpus(train, held_out, separator, true_loss)


def _stream(documents: list[str], tokenizer: Tokenizer, separator: int) -> Tensor:
    """The documents' ids in one row, a separator before each and after the last; int64 [tokens]."""
    encodings = tokenizer.encode_batch_fast(documents, add_special_tokens=False)
    pieces = [np.array([separator, *encoding.ids]) for encoding in encodings]
    return torch.from_numpy(np.concatenate([*pieces, np.array([separator])]))
