"""From a recipe's sources to token ids, for training and held out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tokenizers import Tokenizer

from runtime.progress import progress_bar
from train.data.config import DOCUMENT, STORIES, DataSection, SourceSection
from train.data.documents import Document, texts
from train.data.sources import read_source, source_files
from train.data.split import is_held_out, split_documents
from train.data.stories import true_entropy
from train.data.streams import NONE_SKIPPED, Skipped, Stream, StreamEncoder
from train.data.tokenizer import CorpusTokenizer
from train.errors import DataError

# The text of one stream: what a worker holds in memory, and repeats after it was killed.
CHUNK_CHARACTERS = 1 << 26
MIN_CHUNK_CHARACTERS, CHARACTERS_A_TOKEN = 1 << 20, 4
# The most documents of a source that a tokenizer is trained on.
TOKENIZER_DOCUMENTS = 10_000

Chunk = list[tuple[Document, bool]]  # documents, and whether each is held out


@dataclass(frozen=True)
class TokenSource:
    """A source as token ids.

    weight    its share of the training tokens, relative to the other sources'; None for its own size
    train     empty where the source is trained on while it is read
    hashes    of its training streams
    streamed  where to read it, where it is trained on while it is read
    """

    name: str
    weight: float | None
    train: Sequence[Stream]
    held_out: Sequence[Stream]
    hashes: Sequence[str]
    skipped: Skipped = NONE_SKIPPED
    streamed: SourceSection | None = None

    @property
    def train_tokens(self) -> int:
        """The number of tokens to learn from it; 0 where it is trained on while it is read."""
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
            for stream in (*source.train, *source.held_out)
            if stream.learned is not None
        )

    @property
    def has_streams(self) -> bool:
        """Whether a source is trained on while it is read."""
        return any(source.streamed is not None for source in self.sources)

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
        for section, is_validation in sections(data):
            bar.set_description_str(section.name, refresh=False)
            if section.is_streamed and not is_validation:
                sources.append(_streamed_source(section, data, seed, encoder))
                continue
            train, held_out = [], []
            for chunk in chunks(section, data, seed, is_validation=is_validation):
                sides = encode_chunk(encoder, chunk)
                train.append(sides[0])
                held_out.append(sides[1])
                if is_enough(section, train):
                    break
            train = limit_tokens(section, train)
            hashes = [stream.sha256() for stream in train]
            sources.append(
                TokenSource(section.name, section.weight, train, held_out, hashes, skipped=encoder.pop_skipped())
            )
    return assemble_corpus(sources, data, tokenizer.separator_id)


def sections(data: DataSection) -> list[tuple[SourceSection, bool]]:
    """All sources to read, and whether each is for validation alone; those come last."""
    return [*((source, False) for source in data.all_sources), *((source, True) for source in data.validation)]


def is_enough(source: SourceSection, train: Iterable[Stream]) -> bool:
    """Whether these first streams of a source reach its limit of tokens."""
    return source.max_tokens is not None and sum(stream.learnable for stream in train) >= source.max_tokens


def limit_tokens(source: SourceSection, train: Sequence[Stream]) -> list[Stream]:
    """The first streams of a source, the last of them cut, up to its limit of tokens."""
    if source.max_tokens is None:
        return list(train)
    limited, left = [], source.max_tokens
    for stream in train:
        if left <= 0:
            break
        limited.append(stream.first_learned(left))
        left -= stream.learnable
    return limited


def _streamed_source(source: SourceSection, data: DataSection, seed: int, encoder: StreamEncoder) -> TokenSource:
    """A source that is trained on while it is read: what is held out of its beginning, and its hash."""
    documents, characters = [], 0
    for document in read_source(source, data, seed) if data.held_out_share else ():
        characters += len(document)
        if is_held_out(document, data.held_out_share):
            documents.append(document)
        if characters >= CHUNK_CHARACTERS:
            break
    held_out = encoder.encode(documents)
    files = [(path.name, path.stat().st_size) for path in source_files(source, data.root) if path.is_file()]
    options = data.context, data.rows, data.shuffle_rows, data.held_out_share, data.on_unmaskable
    described = repr((dataclasses.replace(source, weight=None), files, options, seed, held_out.sha256()))
    digest = hashlib.sha256(described.encode()).hexdigest()
    skipped = encoder.pop_skipped()
    return TokenSource(source.name, source.weight, [], [held_out], [digest], skipped=skipped, streamed=source)


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
        documents = split_documents(read_source(source, data, seed), data.held_out_share)
        learned = (document for document, is_out in documents if not is_out)
        for document in islice(learned, TOKENIZER_DOCUMENTS):
            yield from texts(document)


def chunks(source: SourceSection, data: DataSection, seed: int, *, is_validation: bool = False) -> Iterator[Chunk]:
    """The documents of a source, split, in parts of about `CHUNK_CHARACTERS`; the same parts for the same source.

    A source with a limit of tokens comes in smaller parts, so that little more than that is read.
    """
    chunk: Chunk = []
    characters, limit = 0, CHUNK_CHARACTERS
    if source.max_tokens is not None:
        limit = min(limit, max(MIN_CHUNK_CHARACTERS, CHARACTERS_A_TOKEN * source.max_tokens))
    documents = read_source(source, data, seed)
    split = ((one, True) for one in documents) if is_validation else split_documents(documents, data.held_out_share)
    for document, is_out in split:
        chunk.append((document, is_out))
        characters += len(document)
        if characters >= limit:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def encode_chunk(encoder: StreamEncoder, chunk: Chunk) -> tuple[Stream, Stream]:
    """The streams of a chunk's documents: the one to train on, and the held-out one."""
    return (
        encoder.encode(document for document, is_out in chunk if not is_out),
        encoder.encode(document for document, is_out in chunk if is_out),
    )


def assemble_corpus(sources: Sequence[TokenSource], data: DataSection, separator: int) -> Corpus:
    """A corpus of tokenized sources, those for validation last.

    Raises:
        DataError: less than one row is left to train on, or no document is held out.
    """
    trained = sources[: len(data.all_sources)]
    train_tokens = sum(source.train_tokens for source in trained)
    is_streamed = any(source.streamed is not None for source in trained)
    skipped = sum((source.skipped for source in sources), NONE_SKIPPED)
    why = f"; {skipped}" if skipped.count else ""
    if not train_tokens and not is_streamed:
        raise DataError(f"the data hold no token to train on{why}")
    if data.rows != DOCUMENT and train_tokens < data.context and not is_streamed:
        raise DataError(
            f"the data hold {train_tokens:,} tokens to train on, less than one row of {data.context}{why}: lower "
            'data.context, add documents, or set data.rows = "document", where rows may be shorter'
        )
    with_held_out = [source for source in sources if any(len(stream.documents) for stream in source.held_out)]
    if not with_held_out:
        remedy = "raise data.held_out, add documents, or name files of your own as data.validation"
        raise DataError(f"no document is held out at a share of {data.held_out}: {remedy}")
    share = data.held_out_tokens // len(with_held_out)
    held_out = [stream for source in with_held_out for stream in _first(source.held_out, share)]
    return Corpus(trained, held_out, separator, _true_loss(sources))


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
    if [(source.name, source.streamed) for source in sources] != [(STORIES, None)]:
        return None
    streams = [*sources[0].train, *sources[0].held_out]
    documents = sum(len(stream.documents) for stream in streams)
    return true_entropy() * documents / sum(stream.predictions for stream in streams)
