"""Text to token ids and back, by the bundle's `tokenizer.json` (Hugging Face tokenizers)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as HFTokenizer

from runtime.bundle import Bundle
from runtime.errors import BundleError, ContextLengthError, PromptError

# Of a text much longer, for each token of the context; prose has about four.
BEGINNING_CHARACTERS = 16
REPLACEMENT = "\ufffd"  # stands for a byte that is not part of a UTF-8 character
ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # as Python's error handler surrogateescape writes one


class Tokenizer:
    """The tokenizer of a bundle.

    Attributes:
        byte_tokens: id -> byte of the tokens <0x00> to <0xFF>, in a tokenizer that writes characters without a token of
            their own in bytes (byte fallback); else empty.

    Raises:
        BundleError: `tokenizer.json` is absent or unreadable, or its vocabulary is larger than the model's. Added
            tokens may lie beyond the model's; texts that contain them cannot be encoded.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._tokenizer = load_tokenizer(bundle.folder)
        self._bos_token_id = bundle.bos_token_id
        self._context_tokens = bundle.shape.max_position_embeddings
        self._vocab_size = bundle.shape.vocab_size
        size = self._tokenizer.get_vocab_size(with_added_tokens=False)
        if size > self._vocab_size:
            raise BundleError(
                f"{bundle.folder}: tokenizer.json has {size} tokens, the model {self._vocab_size}: "
                "it belongs to another model"
            )
        added = self._tokenizer.get_added_tokens_decoder()
        self._added_token_ids = frozenset(added)
        self._added_tokens = tuple(token.content for token in added.values())
        self._special_tokens = {token_id: token.content for token_id, token in added.items() if token.special}
        self.byte_tokens = self._byte_tokens()
        self._id_of_byte = {byte: token_id for token_id, byte in self.byte_tokens.items()}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, with the special tokens that the tokenizer itself puts around it (a BOS, say).

        An empty text becomes the BOS token, which is where a model that was trained with one starts.

        Raises:
            PromptError: the text is empty and there is no BOS token, it holds half of a surrogate pair, or a token that
                the model does not have.
        """
        _check_unicode(text)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        if not ids and add_special_tokens:
            if self._bos_token_id is None:
                raise PromptError("the prompt is empty and the model has no BOS token to start from: give it some text")
            return [self._bos_token_id]
        largest = max(ids, default=0)
        if largest >= self._vocab_size:
            raise PromptError(
                f"the text has the token {self._tokenizer.id_to_token(largest)!r}, which was added to the tokenizer "
                f"and not to the model (its id is {largest}, the model's end at {self._vocab_size - 1}): leave it out"
            )
        return ids

    def encode_prompt(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """`encode` for a text that must fit the context: one that cannot is refused before it is tokenized.

        Tokenizing takes seconds a megabyte, and a server must not spend them on what it will refuse.

        Raises:
            PromptError: as `encode`.
            ContextLengthError: the text has more bytes than a context full of the longest token, or its beginning more
                tokens than twice the context.
        """
        size = len(text)  # in characters, each at least a byte
        if size > self._context_tokens and size > self._context_tokens * self._longest_token_bytes:
            raise ContextLengthError(
                f"the prompt has {size:,} characters and the model's context is {self._context_tokens} tokens: it "
                "cannot fit; shorten it"
            )
        _check_unicode(text)
        beginning = text[: BEGINNING_CHARACTERS * self._context_tokens]
        if size > 2 * len(beginning):
            # What follows can change the last tokens of a beginning, and not half of them.
            tokens = len(self._tokenizer.encode(beginning, add_special_tokens=False).ids)
            if tokens > 2 * self._context_tokens:
                raise ContextLengthError(
                    f"the prompt has more than {tokens // 2:,} tokens and the model's context is "
                    f"{self._context_tokens}: it cannot fit; shorten it"
                )
        return self.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out. A byte that is not part of a character becomes U+FFFD.

        In a run of byte tokens, as in SentencePiece, the bytes that are characters stay characters whatever surrounds
        them; tokenizers' own decoder replaces all of them where one is wrong.
        """
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        if self.byte_tokens and REPLACEMENT in text:
            text = self._tokenizer.decode(self._with_valid_bytes(token_ids), skip_special_tokens=True)
        return text

    @property
    def special_tokens(self) -> Mapping[int, str]:
        """The texts of the special tokens, which `decode` leaves out, by their ids."""
        return self._special_tokens

    def is_silent(self, token_id: int) -> bool:
        """Whether `decode` leaves this id out: a special token, or an id without a token (of a padded model)."""
        return token_id in self._special_tokens or self._tokenizer.id_to_token(token_id) is None

    @cached_property
    def unused_token_ids(self) -> Sequence[int]:
        """The model's ids without a token, in ascending order: rows with which its vocabulary was padded, mostly."""
        end = self._vocab_size
        while end and self._tokenizer.id_to_token(end - 1) is None:
            end -= 1
        beyond = sum(token_id >= self._vocab_size for token_id in self._added_token_ids)
        if self._tokenizer.get_vocab_size() - beyond == end:
            return range(end, self._vocab_size)
        return [token_id for token_id in range(self._vocab_size) if self._tokenizer.id_to_token(token_id) is None]

    def begins_with_added_token(self, text: str) -> bool:
        """Whether the text begins with a token that is found before all others, such as `<|im_end|>`.

        The ids of the text before it do not depend on it, nor do its own on the text before.
        """
        return text.startswith(self._added_tokens)

    def with_another_token(self, token: str) -> tuple[str, int]:
        """`tokenizer.json` with one more special token, and the id of that token."""
        copy = HFTokenizer.from_str(self._tokenizer.to_str())
        copy.add_special_tokens([token])
        token_id: int = copy.get_vocab()[token]
        return copy.to_str(), token_id

    def token_id(self, token: str) -> int | None:
        """The id of a token by its exact spelling, such as `<|im_end|>`."""
        token_id: int | None = self._tokenizer.token_to_id(token)
        return token_id

    @cached_property
    def _longest_token_bytes(self) -> int:
        return max(len(token.encode("utf-8")) for token in self._tokenizer.get_vocab())

    def _byte_tokens(self) -> dict[int, int]:
        found = {self._tokenizer.token_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
        tokens = {token_id: byte for token_id, byte in found.items() if token_id is not None}
        if len(tokens) < 256 or not self._special_tokens.keys().isdisjoint(tokens):
            return {}
        letters = [token_id for token_id, byte in tokens.items() if byte in b"AZ"]
        is_fallback = self._tokenizer.decode(letters) == "AZ"  # and not <0x41><0x5A>
        return tokens if is_fallback else {}

    def _with_valid_bytes(self, token_ids: Sequence[int]) -> list[int]:
        """The ids without the silent ones, and with each byte that is not part of a character as U+FFFD's bytes."""
        valid: list[int] = []
        run = bytearray()
        for token_id in token_ids:
            byte = self.byte_tokens.get(token_id)
            if byte is not None:
                run.append(byte)
            elif not self.is_silent(token_id):  # a silent one does not end the run
                valid += self._valid_run(run)
                valid.append(token_id)
                run.clear()
        return valid + self._valid_run(run)

    def _valid_run(self, run: bytearray) -> list[int]:
        text = ESCAPED_BYTE.sub(REPLACEMENT, run.decode("utf-8", "surrogateescape"))
        return [self._id_of_byte[byte] for byte in text.encode("utf-8")]


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"the text is not valid Unicode: {error.reason} at character {error.start}") from None


def load_tokenizer(folder: Path) -> HFTokenizer:
    """`tokenizer.json` of a folder, without the truncation and padding that it may hold.

    transformers stores both there after a single call that asked for them, and ignores what is stored.

    Raises:
        BundleError: there is none, or it cannot be parsed.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BundleError(f"{folder} has no tokenizer.json: copy the one that the model was trained with")
    try:
        tokenizer = HFTokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library, written in Rust, raises bare Exception
        raise BundleError(f"{path} cannot be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
