"""Documents as one long sequence of token ids, from which rows for training are cut.

A stream is `separator document separator document ... separator`. The separator begins and ends each document, so a
model prompted with it alone starts a document, and ends it by generating it again. A stream of n tokens makes n - 1
predictions: prediction p predicts token p + 1 from the tokens up to p.

Imports no torch, so that tokenizing processes start fast.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from train.data.chat import ChatTemplate, UnmaskableError, encode_conversation
from train.data.config import STOP
from train.data.documents import Completion, Conversation, Document, NoAssistantError, Preference
from train.errors import DataError

CHARACTERS_AT_ONCE = 1 << 20  # an encoding takes far more memory than its ids until its batch is done

Encoded = tuple[Document, list[int], list[bool] | None]  # a document, its ids, and whether each is learned
Ids = NDArray[np.uint16] | NDArray[np.uint32]


@dataclass(frozen=True)
class Stream:
    """Documents in one sequence of ids, in memory or mapped from files.

    tokens     uint16 or uint32 [tokens]; a separator first, last, and between documents
    documents  int64 [documents, 2]: the first prediction of each, and the one after its last. The predictions of a
               text, and of a completion with its prompt, reach from the separator before it to the one after it; those
               of a conversation from its first token to its last, because its template decides how it begins and ends
    learned    bool [tokens]: which tokens are learned; None where all are
    """

    tokens: Ids
    documents: NDArray[np.int64]
    learned: NDArray[np.bool_] | None = None

    @property
    def predictions(self) -> int:
        """The number of predictions."""
        return len(self.tokens) - 1

    @property
    def learnable(self) -> int:
        """The number of predicted tokens that are learned."""
        return self.predictions if self.learned is None else int(np.count_nonzero(self.learned[1:]))

    def first_documents(self, tokens: int) -> Stream:
        """The beginning of the stream: its first document, and as many more as fit into `tokens` with it."""
        return self._first(int(np.searchsorted(self.documents[:, 1], tokens - 1, side="right")))

    def first_learned(self, tokens: int) -> Stream:
        """The beginning of the stream: its first document, and more while at most `tokens` are learned in all."""
        if self.learned is None:
            return self.first_documents(tokens + 1)
        learned = np.cumsum(self.learned[1:], dtype=np.int64)[self.documents[:, 1] - 1]
        return self._first(int(np.searchsorted(learned, tokens, side="right")))

    def _first(self, count: int) -> Stream:
        """The beginning of the stream with `count` documents, or one."""
        count = max(1, count)
        if count >= len(self.documents):
            return self
        length = int(self.documents[count - 1, 1]) + 1
        return Stream(
            self.tokens[:length], self.documents[:count], None if self.learned is None else self.learned[:length]
        )

    def sha256(self) -> str:
        """A hash of all arrays, from which rows are cut."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.documents, self.learned):
            if array is not None:
                digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return digest.hexdigest()

    def texts(self) -> Iterator[list[int]]:
        """The ids of each document, without the separators around it."""
        for begin, end in self._bounds():
            yield self.tokens[begin:end].tolist()

    def learned_texts(self) -> Iterator[list[int]]:
        """The ids that are learned, without separators: each document, or the parts of it that are learned."""
        if self.learned is None:
            yield from self.texts()
            return
        for begin, end in self._bounds():
            edges = np.flatnonzero(np.diff(self.learned[begin:end].astype(np.int8), prepend=0, append=0))
            for first, last in edges.reshape(-1, 2):
                yield self.tokens[begin + first : begin + last].tolist()

    def _bounds(self) -> Iterator[tuple[int, int]]:
        """The places [begin, end) of each document's tokens, without the separators around it."""
        separator = self.tokens[0]
        for begin, end in self.documents:
            yield begin + int(self.tokens[begin] == separator), end + int(self.tokens[end] != separator)


@dataclass(frozen=True)
class Skipped:
    """Conversations that were left out: nobody is the assistant, or what to learn could not be told exactly."""

    count: int = 0
    first: str = ""  # the reason for the first one, which names its row

    def __add__(self, other: Skipped) -> Skipped:
        return Skipped(self.count + other.count, self.first or other.first)

    def __str__(self) -> str:
        return (
            f"{self.count:,} conversations were skipped (docs/training.md, Conversations, says which are); the first: "
            f"{self.first}"
        )


NONE_SKIPPED = Skipped()


class StreamEncoder:
    """Makes streams of documents.

    Args:
        tokenizer: contains the separator.
        separator: the token between documents.
        chat_template: for conversations, which are an error without it.
        on_unmaskable: what becomes of a conversation that cannot be masked exactly (`DataSection.on_unmaskable`).
        progress: called with the number of documents done since the last call.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        separator: str,
        chat_template: ChatTemplate | None = None,
        *,
        on_unmaskable: str = STOP,
        progress: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._tokenizer = tokenizer
        self._plain = Tokenizer.from_str(tokenizer.to_str())
        self._plain.encode_special_tokens = True  # no text can contain a separator
        self._separator = tokenizer.token_to_id(separator)
        self._chat_template = chat_template
        self._on_unmaskable = on_unmaskable
        self._progress = progress
        self._skipped = NONE_SKIPPED
        self._dtype = np.uint16 if max(tokenizer.get_vocab().values()) < 1 << 16 else np.uint32

    def encode(self, documents: Iterable[Document]) -> Stream:
        """One stream of all documents, in order. A conversation in which nothing is learned is dropped."""
        tokens, learned = [np.array([self._separator], self._dtype)], [np.ones(1, np.bool_)]
        spans, length = [], 1
        for document, ids, mask in self._encoded(documents):
            is_conversation = isinstance(document, Conversation)
            if is_conversation and mask is not None and not any(mask):
                continue
            spans.append((length, length + len(ids) - 1) if is_conversation else (length - 1, length + len(ids)))
            tokens.append(np.array([*ids, self._separator], self._dtype))
            learned.append(np.ones(len(ids) + 1, np.bool_) if mask is None else np.array([*mask, not is_conversation]))
            length += len(ids) + 1
        all_learned = np.concatenate(learned)
        return Stream(
            np.concatenate(tokens),
            np.array(spans, np.int64).reshape(-1, 2),
            None if all_learned.all() else all_learned,
        )

    def pop_skipped(self) -> Skipped:
        """The conversations skipped since the last call."""
        skipped, self._skipped = self._skipped, NONE_SKIPPED
        return skipped

    def _encoded(self, documents: Iterable[Document]) -> Iterator[Encoded]:
        """Each document with its ids, and whether each of these is learned; None where all are."""
        for several in _groups(documents):
            texts = [document for document in several if isinstance(document, str)]
            encodings = iter(self._plain.encode_batch_fast(texts, add_special_tokens=False))
            for document in several:
                if isinstance(document, str):
                    yield document, next(encodings).ids, None
                elif isinstance(document, Preference):
                    both = [self._encoded_answer(answer) for answer in (document.chosen, document.rejected)]
                    if all(one is not None and (one[1] is None or any(one[1])) for one in both):
                        yield from (one for one in both if one is not None)
                elif encoded := self._encoded_answer(document):
                    yield encoded
            self._progress(len(several))

    def _encoded_answer(self, document: str | Conversation | Completion) -> Encoded | None:
        """A single document, its ids and their mask; None where it is skipped."""
        if isinstance(document, str):
            return document, self._plain.encode(document, add_special_tokens=False).ids, None
        if isinstance(document, Completion):
            return document, *self._encoded_completion(document)
        if self._chat_template is None:
            raise DataError(
                f"{document.where}: there are conversations but no chat template: set tokenizer.chat_template"
            )
        encoded = self._encoded_conversation(document, self._chat_template)
        return None if encoded is None else (document, *encoded)

    def _encoded_conversation(
        self, conversation: Conversation, template: ChatTemplate
    ) -> tuple[list[int], list[bool]] | None:
        """The ids of a conversation, and whether each is learned; None where it is skipped."""
        try:
            if not template.marks_generation:
                conversation.check_has_assistant()
            ids, mask = encode_conversation(self._tokenizer, template, conversation, on_unmaskable=self._on_unmaskable)
            if not any(mask):  # a template with generation blocks may know the assistant by another name
                conversation.check_has_assistant()
        except (UnmaskableError, NoAssistantError) as error:
            if self._on_unmaskable == STOP and isinstance(error, UnmaskableError):
                raise
            self._skipped += Skipped(1, str(error))
            return None
        return ids, [False, *mask[1:]]

    def _encoded_completion(self, document: Completion) -> tuple[list[int], list[bool]]:
        """The tokens of the prompt as the model will be given them, and those that continue it."""
        prompt, whole = (
            self._plain.encode(text, add_special_tokens=False).ids
            for text in (document.prompt, document.prompt + document.text)
        )
        completion = whole[len(prompt) :]
        if whole[: len(prompt)] != prompt:  # a token spans the border
            completion = self._plain.encode(document.text, add_special_tokens=False).ids
        return [*prompt, *completion], [False] * len(prompt) + [True] * len(completion)


def _groups(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in lists of about `CHARACTERS_AT_ONCE` characters."""
    group: list[Document] = []
    characters = 0
    for document in documents:
        group.append(document)
        characters += len(document)
        if characters >= CHARACTERS_AT_ONCE:
            yield group
            group, characters = [], 0
    if group:
        yield group
