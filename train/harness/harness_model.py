"""The adapter between our models and lm-evaluation-harness, whose tasks call it. Importing it needs lm-eval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from runtime.errors import PromptError
from runtime.progress import progress_bar
from runtime.text.jinja_template import JinjaTemplate
from runtime.text.special_tokens import read_special_tokens
from runtime.text.tokenizer import load_tokenizer
from train.data.tokenizer import CorpusTokenizer
from train.harness.scorers import Logits, Scorer

MAX_NEW_TOKENS = 256  # of a task that does not say


class HarnessModel(TemplateLM):  # type: ignore[misc] - lm-eval has no types
    """A model as the harness sees it.

    Args:
        scorer: the model.
        chat: whether contexts come from its chat template, which has put the special tokens in already.
    """

    def __init__(self, scorer: Scorer, *, chat: bool = False) -> None:
        super().__init__()
        self._scorer, self._chat = scorer, chat
        self._tokenizer = load_tokenizer(scorer.folder)
        self._last: tuple[tuple[int, ...], Logits] = (), np.zeros((0, 0), np.float32)

    @property
    def eot_token_id(self) -> int:
        """The token that a text without a context is scored after."""
        ids = [self._scorer.bos_token_id, *self._scorer.eos_token_ids]
        found = next((token_id for token_id in ids if token_id is not None), None)
        if found is None:
            raise PromptError(f"{self._scorer.name} has neither a BOS nor an EOS token to start a text from")
        return found

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests."""
        return str(self._scorer.folder)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text, with what the tokenizer itself puts around it unless told otherwise."""
        special = not self._chat if add_special_tokens is None else add_special_tokens
        ids: list[int] = self._tokenizer.encode(string, add_special_tokens=special).ids
        return ids

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the model's chat template, if it is asked for."""
        return self._template.source if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt for some messages."""
        template = JinjaTemplate(self._template.source, read_special_tokens(self._scorer.folder))
        return template.render(chat_history, add_generation_prompt=add_generation_prompt).text

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """For each context and continuation, its log-probability and whether each of its tokens is the likeliest."""
        bar = progress_bar(requests, description=self._scorer.name, unit="requests", show=not disable_tqdm)
        return [self._score(context, continuation) for _, context, continuation in bar]

    def _score(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        if not continuation:
            return 0.0, True
        if len(continuation) > self._scorer.context_tokens:
            raise PromptError(f"a text of {len(continuation)} tokens does not fit {self._scorer.name}")
        token_ids = tuple([*context, *continuation][:-1][-self._scorer.context_tokens :])
        logits = self._logits(token_ids, len(continuation)).astype(np.float64)
        largest = logits.max(-1, keepdims=True)
        log_z = largest[:, 0] + np.log(np.exp(logits - largest).sum(-1))
        wanted = logits[np.arange(len(continuation)), continuation]
        return float((wanted - log_z).sum()), bool((logits.argmax(-1) == continuation).all())

    def _logits(self, token_ids: tuple[int, ...], keep: int) -> Logits:
        """The model's logits; choices of one token, which follow each other, have the same ones."""
        if self._last[0] != token_ids or len(self._last[1]) != keep:
            self._last = token_ids, self._scorer.logits(token_ids, keep)
        return self._last[1]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text, every token once, each with as much before it as the windows allow."""
        totals = []
        for request in progress_bar(requests, description=self._scorer.name, unit="texts", show=not disable_tqdm):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.eot_token_id,
                max_seq_len=self._scorer.context_tokens,
                context_len=1,
            )
            totals.append(sum(self._score(*make_disjoint_window(window))[0] for window in windows))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The likeliest continuation of each context, up to one of its stop strings. It is always greedy."""
        bar = progress_bar(requests, description=self._scorer.name, unit="texts", show=not disable_tqdm)
        return [self._generate(*request.args) for request in bar]

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        limit = min(int(options.get("max_gen_toks", MAX_NEW_TOKENS)), self._scorer.context_tokens - 1)
        prompt = (self.tok_encode(context) or [self.eot_token_id])[-(self._scorer.context_tokens - limit) :]
        new_ids: list[int] = []
        text = ""
        for token_id in self._scorer.greedy(prompt):
            if token_id in self._scorer.eos_token_ids:
                break
            new_ids.append(token_id)
            text = self._tokenizer.decode(new_ids, skip_special_tokens=False)
            if len(new_ids) >= limit or any(stop in text for stop in stops):
                break
        ends = [text.find(stop) for stop in stops if stop in text]
        return text[: min(ends)] if ends else text

    @property
    def _template(self) -> Any:
        template = CorpusTokenizer.load(self._scorer.folder).chat_template
        if template is None:
            raise PromptError(f"{self._scorer.name} has no chat template: leave out --chat")
        return template
