"""The sections of a recipe for text: its sources, its tokenizer, and how it is cut into rows. Imports no torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

from train.errors import require

STORIES = "stories"
END_OF_TEXT = "<|endoftext|>"
ALPACA = "alpaca"
PACKED, DOCUMENT, ISOLATED, PAIRS = "packed", "document", "isolated", "pairs"
SKIP, LAST_TURN, STOP = "skip", "last_turn", "stop"


@dataclass(frozen=True, kw_only=True)
class TokenizerSection:
    """A byte-level BPE trained on the corpus, or an existing tokenizer."""

    vocab_size: int = 2048
    path: str | None = None  # a tokenizer.json, its folder, or a Hub id; vocab_size then has no effect
    separator: str | None = None  # the token between documents; default: `<|endoftext|>`, or else the BOS token
    chat_template: str | None = None  # a Jinja file; default: the tokenizer's own, or else ChatML

    def __post_init__(self) -> None:
        require(self.vocab_size > 256, "tokenizer.vocab_size must be above 256: every byte is a token")


@dataclass(frozen=True, kw_only=True)
class SourceSection:
    """Where documents come from, and their share of the training tokens."""

    path: str | None = None  # "stories", or files: .jsonl, .json, .csv, .tsv, .parquet by field, others as text
    hub: str | None = None  # or a data set on the Hub, or a folder that `datasets` reads; it is streamed
    subset: str | None = None  # of a Hub data set
    split: str = "train"  # of a Hub data set
    format: str | None = None  # "alpaca": rows of instruction, input and output, instead of a field
    field: str | None = None  # where a row has its document, a text or a list of chat messages; default: "text"
    prompt_field: str | None = None  # where a row has a prompt that precedes the document and is not learned
    rejected_field: str | None = None  # where a row has the worse answer, of a pair of which `field` is the better
    ignored_keys: tuple[str, ...] = ()  # keys of messages, and "tools" of rows, to train without
    roles: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of other names: { bot = "assistant" }
    separator: str = END_OF_TEXT  # the text between a text file's documents
    separator_pattern: str | None = None  # instead: a regular expression (multiline); its matches are dropped
    min_characters: int = 1  # shorter documents, such as tables of contents, are skipped
    weight: float | None = None  # share of the training tokens, relative to the other sources'; all have one, or none
    max_documents: int | None = None  # read no more than these first ones
    max_tokens: int | None = None  # train on no more than the first documents that have as many tokens to learn
    stream: bool | None = None  # train while it is read; default: a Hub data set that has no limit

    def __post_init__(self) -> None:
        require((self.path is None) != (self.hub is None), "a source needs one of path and hub")
        require(bool(self.path or self.hub), "a source's path or hub must not be empty")
        require(bool(self.separator), "a source's separator must not be empty")
        require(self.field is not None or self.prompt_field is None, "a source's prompt_field needs its field")
        require(
            all(isinstance(role, str) and role for role in self.roles.values()),
            'a source\'s roles give each name its role, such as { bot = "assistant" }',
        )
        require(self.field is not None or self.rejected_field is None, "a source's rejected_field needs its field")
        require(self.format in (None, ALPACA), f"a source's format is {ALPACA}, or none, not {self.format!r}")
        require(self.format is None or self.field is None, "a source has a format or a field; keep one")
        for name in ("max_documents", "max_tokens"):
            limit = getattr(self, name)
            require(limit is None or limit >= 1, f"a source's {name} must be at least 1")
        require(self.min_characters >= 1, "a source's min_characters must be at least 1")
        require(self.weight is None or 0 < self.weight < float("inf"), "a source's weight must be positive")
        try:
            re.compile(self.separator_pattern or "")
        except re.error as error:
            require(False, f"separator_pattern {self.separator_pattern!r} is not a regular expression: {error}")

    @property
    def is_streamed(self) -> bool:
        """Whether the source is trained on while it is read, unless all sources are tokenized beforehand."""
        if self.stream is None:
            return self.hub is not None and self.max_documents is None and self.max_tokens is None
        return self.stream

    @property
    def name(self) -> str:
        """The name of the source in messages and tables."""
        return str(self.path or "/".join(filter(None, (self.hub, self.subset, self.split))))


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """Which text is read, and how it is cut into rows."""

    source: str | None = None  # one source, by its path; "stories" where `sources` is empty too
    sources: tuple[SourceSection, ...] = ()  # or several sources, as `[[data.sources]]`
    root: str = "."  # the folder that paths of sources are relative to
    documents: int = 50_000  # the number of stories; other sources are read whole
    tokens: str | None = None  # a folder of token shards; made where it does not exist
    held_out: float = 0.01  # the share of documents that is never trained on, chosen by hash
    validation: tuple[SourceSection, ...] = ()  # sources to evaluate on instead; nothing else is held out then
    held_out_tokens: int = 500_000  # an evaluation reads at most this many of their tokens
    context: int = 256  # the most tokens in a row
    batch_size: int = 4  # rows per step
    shuffle_rows: int = 2048  # the rows of a streamed source that the next one is drawn from
    # or "document": one document per row; or "isolated": packed, attention within a document; or "pairs" of answers
    rows: str = PACKED

    # Where the assistant's words in a conversation cannot be told exactly: "skip" and count it; learn its "last_turn"
    # alone, and skip it where that cannot be told either; or "stop" with an error.
    on_unmaskable: str = SKIP

    def __post_init__(self) -> None:
        require(self.source is None or not self.sources, "data has both source and sources; keep one")
        require(self.documents >= 2, "data.documents must be at least 2, one to train on and one to hold out")
        require(0 < self.held_out < 1, "data.held_out is a share, between 0 and 1")
        require(self.held_out_tokens >= 1, "data.held_out_tokens must be at least 1")
        require(self.context >= 2, "data.context must be at least 2")
        require(self.batch_size >= 1, "data.batch_size must be at least 1")
        require(self.shuffle_rows >= 1, "data.shuffle_rows must be at least 1")
        require(
            self.rows in (PACKED, DOCUMENT, ISOLATED, PAIRS),
            f"data.rows must be {PACKED}, {DOCUMENT}, {ISOLATED} or {PAIRS}, not {self.rows!r}",
        )
        require(
            self.on_unmaskable in (SKIP, LAST_TURN, STOP),
            f"data.on_unmaskable must be {SKIP}, {LAST_TURN} or {STOP}, not {self.on_unmaskable!r}",
        )
        weighted = sum(source.weight is not None for source in self.sources)
        require(weighted in (0, len(self.sources)), "of data.sources all have a weight, or none")
        require(
            weighted > 0 or len(self.sources) < 2 or not self.has_streams,
            "a streamed source has no known size: give each of data.sources its weight",
        )
        for source in (*self.sources, *self.validation):
            need = 'pairs of answers (data.rows = "pairs") need the rejected_field of each source, and no other rows do'
            require((source.rejected_field is not None) == (self.rows == PAIRS), need)
        require(self.rows != PAIRS or not self.has_streams, "pairs of answers cannot be streamed")
        explicit = [source for source in (*self.sources, *self.validation) if source.stream]
        require(self.tokens is None or not explicit, "data.tokens reads sources whole: leave out their stream = true")
        require(not any(source.stream for source in self.validation), "a source of data.validation is not streamed")

    @property
    def all_sources(self) -> tuple[SourceSection, ...]:
        """The sources, whichever key the recipe names them by."""
        return self.sources or (SourceSection(path=self.source or STORIES),)

    @property
    def held_out_share(self) -> float:
        """The share of the sources' documents to hold out."""
        return 0.0 if self.validation else self.held_out

    @property
    def has_streams(self) -> bool:
        """Whether a source is trained on while it is read."""
        return self.tokens is None and any(source.is_streamed for source in self.all_sources)
