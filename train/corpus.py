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

    `train` is one stream, int64 [tokens]; `held_out` is one such stream a document. `true_loss` is the least mean loss,
    in nats a token, that any model can have on documents of this source.
    """

    train: Tensor
    held_out: list[Tensor]
    true_loss: float | None

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
    end = tokenizer.token_to_id(END_OF_TEXT)
    train, held_out = _encode(texts.train, tokenizer, end), _encode(texts.held_out, tokenizer, end)
    true_loss = None
    if texts.true_entropy is not None:
        # What is predicted of a document is its tokens and its end. Their mean number over so many documents is the
        # expected one to a fraction of a per mille.
        predicted = sum(map(len, train + held_out)) - len(train + held_out)
        true_loss = texts.true_entropy * len(train + held_out) / predicted
    stream = np.concatenate([document[:-1] for document in train] + [np.array([end])])
    return Corpus(torch.from_numpy(stream), [torch.from_numpy(document) for document in held_out], true_loss)


def _encode(documents: list[str], tokenizer: Tokenizer, end: int) -> list[np.ndarray]:
    """Each document as int64 ids, between two `<|endoftext|>`."""
    encodings = tokenizer.encode_batch_fast(documents, add_special_tokens=False)
    return [np.array([end, *encoding.ids, end], dtype=np.int64) for encoding in encodings]
