"""Text to token ids and back, by the bundle's `tokenizer.json` (Hugging Face tokenizers)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as HFTokenizer

from runtime.bundle import Bundle
from runtime.errors import BundleError, PromptError


class Tokenizer:
    """The tokenizer of a bundle.

    Raises:
        BundleError: it is absent, unreadable, or has more tokens than the model.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._tokenizer = load_tokenizer(bundle.folder)
        self._bos_token_id = bundle.bos_token_id
        self._context_tokens = bundle.shape.max_position_embeddings
        size = self._tokenizer.get_vocab_size()
        if size > bundle.shape.vocab_size:
            raise BundleError(
                f"{bundle.folder}: tokenizer.json has {size} tokens, the model {bundle.shape.vocab_size}: "
                "it belongs to another model"
            )
        # A decoder with byte fallback turns a whole run of <0xXX> tokens into text at once.
        self.byte_tokens = frozenset(
            token_id for byte in range(256) if (token_id := self._tokenizer.token_to_id(f"<0x{byte:02X}>")) is not None
        )

        added = self._tokenizer.get_added_tokens_decoder()
        self._added_tokens = tuple(token.content for token in added.values())
        self._special_token_ids = frozenset(token_id for token_id, token in added.items() if token.special)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, with the special tokens that the tokenizer itself puts around it (a BOS, say).

        An empty text becomes the BOS token, which is where a model that was trained with one starts.

        Raises:
            PromptError: the text is empty and there is no BOS token, or it holds half of a surrogate pair.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(f"the text is not valid Unicode: {error.reason} at character {error.start}") from None
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        if not ids and add_special_tokens:
            if self._bos_token_id is None:
                raise PromptError("the prompt is empty and the model has no BOS token to start from: give it some text")
            return [self._bos_token_id]
        return ids

    def encode_prompt(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """`encode` for a text that must fit the context: one that cannot is refused before it is tokenized.

        Tokenizing takes seconds a megabyte, and a server must not spend them on what it will refuse.

        Raises:
            PromptError: as `encode`, or the text has more bytes than a context full of the longest token.
        """
        size = len(text)  # in characters, each at least a byte
        if size > self._context_tokens and size > self._context_tokens * self._longest_token_bytes:
            raise PromptError(
                f"the prompt has {size:,} characters and the model's context is {self._context_tokens} tokens, "
                "which cannot hold so many: shorten it"
            )
        return self.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out. Bytes that are no UTF-8 become U+FFFD."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def is_silent(self, token_id: int) -> bool:
        """Whether `decode` leaves this id out: a special token, or one beyond the vocabulary (a padded model's)."""
        return token_id in self._special_token_ids or self._tokenizer.id_to_token(token_id) is None

    def begins_with_added_token(self, text: str) -> bool:
        """Whether the text begins with a token that is found before all others, such as `<|im_end|>`.

        The ids of what stands before it do not depend on it, nor its own on what stands before.
        """
        return text.startswith(self._added_tokens)

    def with_another_token(self, token: str) -> tuple[str, int]:
        """The tokenizer as `tokenizer.json` has it, with a special token more, and the id of that one."""
        copy = HFTokenizer.from_str(self._tokenizer.to_str())
        copy.add_special_tokens([token])
        token_id: int = copy.get_vocab()[token]
        return copy.to_str(), token_id

    @cached_property
    def _longest_token_bytes(self) -> int:
        return max(len(token.encode("utf-8")) for token in self._tokenizer.get_vocab())

    def token_id(self, token: str) -> int | None:
        """The id of a token by its exact spelling, such as `<|im_end|>`."""
        token_id: int | None = self._tokenizer.token_to_id(token)
        return token_id


def load_tokenizer(folder: Path) -> HFTokenizer:
    """`tokenizer.json` of a folder. Raises BundleError where there is none or it cannot be parsed."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BundleError(f"{folder} has no tokenizer.json: copy the one that the model was trained with")
    try:
        return HFTokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library, written in Rust, raises bare Exception
        raise BundleError(f"{path} cannot be read: {error}") from None
