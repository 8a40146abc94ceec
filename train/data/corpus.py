"""From a recipe's sources to token ids, for training and held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tokenizers import Tokenizer

from runtime.progress import progress_bar
from train.data.config import STORIES, DataSection, SourceSection
from train.data.documents import Document, texts
from train.data.sources import read_source
from train.data.split import split_documents
from train.data.stories import true_entropy
from train.data.streams import NONE_SKIPPED, Skipped, Stream, StreamEncoder
from train.data.tokenizer import CorpusTokenizer
from train.errors import DataError

# The text of one stream: what a worker holds in memory, and repeats after it was killed.
CHUNK_CHARACTERS = 1 << 26
# The most documents of a source that a tokenizer is trained on.
TOKENIZER_DOCUMENTS = 10_000

Chunk = list[tuple[Document, bool]]  # documents, and whether each is held out


@dataclass(frozen=True)
class TokenSource:
    """A source as token ids.

    weight  its share of the training tokens, relative to the other sources'; None for its own size
    hashes  of its training streams
    """

    name: str
    weight: float | None
    train: Sequence[Stream]
    held_out: Sequence[Stream]
    hashes: Sequence[str]
    skipped: Skipped = NONE_SKIPPED

    @property
    def train_tokens(self) -> int:
        """The number of tokens to learn from it."""
        return sum(stream.learnable for stream in self.train)


@dataclass(frozen=True)
class Corpus:
    """All sources of a recipe as token ids.

    held_out   streams that are never trained on, cut to the tokens that an evaluation reads
    true_loss  the lowest mean loss, in nats per token, that any model can have on such documents, where it is known
    """

    sources: Sequence[TokenSource]
    held_out: Sequence[Stream]
    separator: int
    true_loss: float | None = None

    @property
    def train_tokens(self) -> int:
        """The number of tokens to learn from all sources."""
        return sum(source.train_tokens for source in self.sources)

    @property
    def has_conversations(self) -> bool:
        """Whether some documents are conversations: the separator after these, and no other, is not learned."""
        return any(
            not stream.learned[stream.tokens == self.separator].all()
            for source in self.sources
            for stream in source.train
            if stream.learned is not None
        )

    @property
    def held_out_tokens(self) -> int:
        """The number of tokens that an evaluation predicts."""
        return sum(stream.learnable for stream in self.held_out)

    def held_out_texts(self, tokenizer: Tokenizer) -> list[str]:
        """The documents of `held_out`."""
        ids = [ids for stream in self.held_out for ids in stream.texts()]
        texts: list[str] = tokenizer.decode_batch(ids, skip_special_tokens=False)
        return texts

    def fingerprint(self) -> str:
        """A hash of the training data: corpora with the same fingerprint are the same text in the same tokens."""
        described = [(source.weight, list(source.hashes)) for source in self.sources]
        return hashlib.sha256(repr(described).encode()).hexdigest()[:16]


def build_corpus(data: DataSection, tokenizer: CorpusTokenizer, seed: int) -> Corpus:
    """All sources of a recipe, tokenized in memory. Raises DataError where a source is empty."""
    sources = []
    with progress_bar(description="tokenize", unit="documents") as bar:
        encoder = make_encoder(tokenizer, data.on_unmaskable, progress=bar.update)
        for section in data.all_sources:
            bar.set_description_str(section.name, refresh=False)
            train, held_out = zip(*(encode_chunk(encoder, chunk) for chunk in chunks(section, data, seed)), strict=True)
            hashes = [stream.sha256() for stream in train]
            sources.append(
                TokenSource(section.name, section.weight, train, held_out, hashes, skipped=encoder.pop_skipped())
            )
    return assemble_corpus(sources, data, tokenizer.separator_id)


def make_encoder(
    tokenizer: CorpusTokenizer, on_unmaskable: str, *, progress: Callable[[int], object] = lambda _: None
) -> StreamEncoder:
    """The encoder of a corpus."""
    return StreamEncoder(
        tokenizer.tokenizer,
        tokenizer.separator,
        tokenizer.chat_template,
        on_unmaskable=on_unmaskable,
        progress=progress,
    )


def tokenizer_texts(data: DataSection, seed: int) -> Iterator[str]:
    """The texts to train a tokenizer on: the first documents of each source that are not held out."""
    for source in data.all_sources:
        documents = split_documents(read_source(source, data, seed), data.held_out)
        learned = (document for document, is_held_out in documents if not is_held_out)
        for document in islice(learned, TOKENIZER_DOCUMENTS):
            yield from texts(document)


def chunks(source: SourceSection, data: DataSection, seed: int) -> Iterator[Chunk]:
    """The documents of a source, split, in parts of about `CHUNK_CHARACTERS`; the same parts for the same source."""
    chunk: Chunk = []
    characters = 0
    for document, is_held_out in split_documents(read_source(source, data, seed), data.held_out):
        chunk.append((document, is_held_out))
        characters += len(document)
        if characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def encode_chunk(encoder: StreamEncoder, chunk: Chunk) -> tuple[Stream, Stream]:
    """The streams of a chunk's documents: the one to train on, and the held-out one."""
    return (
        encoder.encode(document for document, is_held_out in chunk if not is_held_out),
        encoder.encode(document for document, is_held_out in chunk if is_held_out),
    )


def assemble_corpus(sources: Sequence[TokenSource], data: DataSection, separator: int) -> Corpus:
    """A corpus of tokenized sources.

    Raises:
        DataError: less than one row is left to train on, or no document is held out.
    """
    train_tokens = sum(source.train_tokens for source in sources)
    if train_tokens < data.context:
        skipped = sum((source.skipped for source in sources), NONE_SKIPPED)
        why = f"; {skipped}" if skipped.count else ""
        raise DataError(f"the data hold {train_tokens:,} tokens to train on, less than one row of {data.context}{why}")
    with_held_out = [source for source in sources if any(len(stream.documents) for stream in source.held_out)]
    if not with_held_out:
        raise DataError(f"no document is held out at a share of {data.held_out}: raise data.held_out, or add documents")
    share = data.held_out_tokens // len(with_held_out)
    held_out = [stream for source in with_held_out for stream in _first(source.held_out, share)]
    return Corpus(sources, held_out, separator, _true_loss(sources))


def _first(streams: Iterable[Stream], tokens: int) -> Iterator[Stream]:
    """The beginnings of some streams, of about `tokens` tokens in all."""
    for stream in streams:
        if tokens <= 0:
            return
        if len(stream.documents):
            beginning = stream.first_documents(tokens)
            tokens -= len(beginning.tokens)
            yield beginning


def _true_loss(sources: Sequence[TokenSource]) -> float | None:
    """The entropy of the stories in nats per token, where they are the only source.

    The predictions of a story are its tokens and its end. Their mean number over all stories read estimates the
    expected number to within 0.1 %.
    """
    if [source.name for source in sources] != [STORIES]:
        return None
    streams = [*sources[0].train, *sources[0].held_out]
    documents = sum(len(stream.documents) for stream in streams)
    return true_entropy() * documents / sum(stream.predictions for stream in streams)
