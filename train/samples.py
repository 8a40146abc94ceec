"""What samples in a run start from: the recipe's prompts, or else the beginning of a document or a real question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train.data.corpus import Corpus
from train.data.documents import Conversation
from train.data.tokenizer import CorpusTokenizer

# A question that takes more of the context than this leaves too little for its answer.
LONGEST_SHARE = 0.5


def sample_prompts(
    texts: Sequence[str], tokenizer: CorpusTokenizer, corpus: Corpus, *, begin: int, context: int
) -> list[list[int]]:
    """The token ids of each prompt.

    Args:
        texts: of the recipe. Where conversations are learned each is what a user says, and the chat template writes it;
            else each begins a document. Without any, the one prompt is what precedes the first answer that is held
            out, or else the begin token.
        tokenizer: with the chat template.
        corpus: says whether conversations are learned.
        begin: the token that begins a document.
        context: of the model, in tokens.
    """
    template = tokenizer.chat_template if corpus.has_conversations else None
    encode = tokenizer.tokenizer.encode
    if template is None:
        prompts = [[begin, *encode(text, add_special_tokens=False).ids] for text in texts]
    else:
        asked = [Conversation([{"role": "user", "content": text}], where="run.sample_prompts") for text in texts]
        rendered = [template.render(one, add_generation_prompt=True).text for one in asked]
        prompts = [encode(text, add_special_tokens=False).ids for text in rendered]
    return prompts or [_held_out_question(corpus, int(LONGEST_SHARE * context)) or [begin]]


def _held_out_question(corpus: Corpus, longest: int) -> list[int] | None:
    """What precedes the first answer of the first held-out document that has one, within a limit of tokens."""
    for stream in corpus.held_out:
        if stream.learned is None:
            continue
        for begin, end in stream.documents:
            before = int(np.argmax(stream.learned[begin + 1 : end + 1])) + 1  # tokens up to the first that is learned
            if stream.learned[begin + before] and 1 < before <= longest:
                ids: list[int] = stream.tokens[begin : begin + before].tolist()
                return ids
    return None
