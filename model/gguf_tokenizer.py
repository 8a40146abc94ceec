"""The tokenizer of a GGUF file as `tokenizer.json` and `tokenizer_config.json`.

Two kinds are read: byte-level BPE (`gpt2`), whose split into words llama.cpp names by `tokenizer.ggml.pre`; and
SentencePiece's BPE (`llama`), whose scores order the merges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from model.errors import CheckpointError
from model.files import write_json, write_text
from model.gguf_file import GGUFFile

INSTEAD = "give the folder of the original tokenizer: --tokenizer in export, tokenizer.path in a recipe"
KEY = "tokenizer.ggml."
# llama.cpp's token types.
UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5
SPACE = "\u2581"  # SentencePiece's


@dataclass(frozen=True)
class WordSplit:
    """How a byte-level BPE splits a text into words.

    Attributes:
        pattern: of the words; None for GPT-2's.
        single_digits: whether each digit is first set apart.
        ignore_merges: whether a word that is a token is taken whole.
        nfc: whether the text is normalized to NFC first.
        add_bos: what an absent `add_bos_token` means.
    """

    pattern: str | None = None
    single_digits: bool = False
    ignore_merges: bool = False
    nfc: bool = False
    add_bos: bool = False


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT2 = WordSplit()
_DIGITS = WordSplit(single_digits=True)
_LLAMA3 = WordSplit(
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}", ignore_merges=True, add_bos=True
)
_QWEN2 = WordSplit(rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}", nfc=True)
_TEKKEN = WordSplit(
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ignore_merges=True,
    add_bos=True,
)
WORD_SPLITS = {
    "gpt-2": _GPT2,
    **dict.fromkeys(("smollm", "starcoder"), _DIGITS),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "kormo"), _QWEN2),
    "tekken": _TEKKEN,
}


def write_tokenizer(file: GGUFFile, folder: Path) -> None:
    """Write the two files.

    Raises:
        CheckpointError: the file has no tokenizer, or one of a kind that is not implemented.
    """
    metadata = file.metadata
    original = metadata.get("tokenizer.huggingface.json")
    try:
        text = original or _build(metadata).to_str(pretty=True)
    except CheckpointError as error:
        raise CheckpointError(f"{file.path}: {error}; {INSTEAD}") from None
    except Exception as error:  # noqa: BLE001 - the tokenizers library raises bare Exception
        raise CheckpointError(f"{file.path}: its tokenizer is broken: {error}; {INSTEAD}") from None
    write_text(folder / "tokenizer.json", text)
    write_json(folder / "tokenizer_config.json", _settings(metadata))


def _build(metadata: Mapping[str, Any]) -> Tokenizer:
    kind = metadata.get(KEY + "model")
    if kind is None or KEY + "tokens" not in metadata:
        raise CheckpointError("it holds no tokenizer")
    tokens: list[str] = metadata[KEY + "tokens"]
    types: list[int] = metadata.get(KEY + "token_type") or [1] * len(tokens)
    while types and types[-1] == UNUSED:  # rows that pad the vocabulary, which the tokenizer never had
        tokens, types = tokens[: len(types) - 1], types[:-1]
    if kind == "gpt2":
        tokenizer, adds_bos = _byte_level(metadata, tokens)
    elif kind == "llama":
        tokenizer, adds_bos = _sentencepiece(metadata, tokens, types), True
    else:
        raise CheckpointError(f"its tokenizer is of the kind {kind!r}, which is not implemented")
    special = [_added(text, kind) for text, kind in zip(tokens, types, strict=True) if kind in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([_added(text, kind) for text, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED])
    _add_ends(tokenizer, metadata, tokens, adds_bos=adds_bos)
    return tokenizer


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str]) -> tuple[Tokenizer, bool]:
    """A tokenizer of GPT-2's kind, and whether its prompts begin with bos where the file does not say."""
    name = metadata.get(KEY + "pre")
    split = WORD_SPLITS.get(str(name))
    if split is None:
        raise CheckpointError(f"its tokenizer splits words as {name!r} ({KEY}pre), which is not implemented")
    merges = [tuple(merge.split(" ", 1)) for merge in metadata.get(KEY + "merges", [])]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=split.ignore_merges))
    if split.nfc:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if split.single_digits else []
    if split.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(split.pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split.pattern is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, split.add_bos


def _sentencepiece(metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> Tokenizer:
    """A BPE over characters that falls back to bytes. Any two tokens whose join is a token merge, by its score."""
    scores: list[float] = metadata.get(KEY + "scores") or []
    if len(scores) < len(tokens):
        raise CheckpointError(f"its tokenizer has {len(tokens)} tokens and {len(scores)} scores")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    plain = {token for token, kind in zip(tokens, types, strict=True) if kind == 1}
    merges = []
    for token in plain:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in plain and right in plain:
                merges.append((-scores[vocabulary[token]], vocabulary[left], vocabulary[right], left, right))
    ordered = [(left, right) for *_, left, right in sorted(merges)]
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=ordered, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    has_prefix = metadata.get(KEY + "add_space_prefix", True)
    prefix: list[Any] = [normalizers.Prepend(SPACE)] if has_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
    strip: list[Any] = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _added(text: str, kind: int) -> AddedToken:
    return AddedToken(text, special=kind != USER_DEFINED, normalized=False)


def _add_ends(tokenizer: Tokenizer, metadata: Mapping[str, Any], tokens: Sequence[str], *, adds_bos: bool) -> None:
    """The tokens that the tokenizer itself puts before and behind a text."""
    before, after = (
        (_special(metadata, tokens, name) if metadata.get(f"{KEY}add_{name}_token", default) else None)
        for name, default in (("bos", adds_bos), ("eos", False))
    )
    ends = [token for token in (before, after) if token is not None]
    if not ends:
        return
    single = [token for token in (before, "$A", after) if token is not None]
    pair = [*single, *(token for token in (before and f"{before}:1", "$B:1", after and f"{after}:1") if token)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, tokens.index(token)) for token in dict.fromkeys(ends)]
    )


def _special(metadata: Mapping[str, Any], tokens: Sequence[str], name: str) -> str | None:
    """The text of a special token; None where the file names none."""
    number = metadata.get(f"{KEY}{name}_token_id")
    return tokens[number] if number is not None and number < len(tokens) else None


def _settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """`tokenizer_config.json`: special tokens and chat templates."""
    tokens = metadata.get(KEY + "tokens", [])
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    special = {name: _special(metadata, tokens, key) for name, key in names.items()}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    template = metadata.get("tokenizer.chat_template")
    others = {
        name: metadata.get(f"tokenizer.chat_template.{name}") for name in metadata.get("tokenizer.chat_templates", [])
    }
    templates: Any = template
    if template is not None and any(others.values()):
        named = {"default": template} | {name: source for name, source in others.items() if source}
        templates = [{"name": name, "template": source} for name, source in named.items()]
    return settings | {
        key: value for key, value in (special | {"chat_template": templates}).items() if value is not None
    }
