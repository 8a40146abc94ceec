"""Lines in, results out, in order: what a batch computes, wherever its lines come from and its results go."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from runtime.batch.line_options import line_options
from runtime.batch.lines import RESULT_KEYS, InputLine, LineResult
from runtime.engine.prompt_cache import PromptCache, exact_granularity
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Sequence
from runtime.errors import OptionError, PromptError, SmolTextError
from runtime.generation.generate import DEFAULT_BATCH_SIZE
from runtime.generation.text_delta import Generation, TextDelta, logprobs_to_list
from runtime.generation.text_request import TextRequest
from runtime.language_model import LanguageModel
from runtime.sampling.options import SamplingOptions

# Results wait for those before them; lines further ahead than this of the first unfinished one wait to be read.
MAX_LINES_AHEAD = 256
KEPT_PROMPTS = 4


class BatchWorker:
    """Generates the texts of lines, several at a time.

    A prefix that prompts share, such as a system prompt, is computed once.

    Args:
        model: in one precision.
        sampling: options of lines that do not give their own.
        batch_size: lines at a time. In int8 and int8-kv8 a line has the tokens that it has alone.

    Raises:
        OptionError, ConstraintError: batch_size below 1, or options for all that the model cannot have.
    """

    def __init__(
        self, model: LanguageModel, sampling: SamplingOptions, *, batch_size: int = DEFAULT_BATCH_SIZE
    ) -> None:
        if batch_size < 1:
            raise OptionError(f"batch_size must be at least 1, not {batch_size}")
        self._model = model
        self._sampling = sampling
        self._batch_size = batch_size
        session = model.session
        prompts = PromptCache(session, KEPT_PROMPTS, exact_granularity(session))
        self._scheduler = Scheduler(session, prompts=prompts, max_running=batch_size)
        # What no line could be generated with is an error of the call. min_new_tokens may suit the lines' own limits.
        model.text_request([0], replace(sampling, min_new_tokens=0), on_delta=lambda _: None)

    def run(self, lines: Iterable[InputLine]) -> Iterator[LineResult]:
        """The results in the order of the lines, each as soon as those before it are there.

        Lines are read as they are needed. What is wrong with a line is its result's `error`; others go on.
        """
        unread = iter(lines)
        texts: deque[_Text] = deque()
        running: dict[Sequence, _Text] = {}
        try:
            while True:
                while self._scheduler.waiting < self._batch_size and len(texts) < MAX_LINES_AHEAD:
                    line = next(unread, None)
                    if line is None:
                        break
                    texts.append(self._begin(line, running))
                if not texts:
                    return
                if texts[0].added is None:
                    self._step(running)
                while texts and texts[0].added is not None:
                    text = texts.popleft()
                    yield LineResult(text.line, text.added or {})
        finally:
            for sequence in running:
                self._scheduler.cancel(sequence)

    def _begin(self, line: InputLine, running: dict[Sequence, _Text]) -> _Text:
        text = _Text(line)
        try:
            request = self._request(line, text)
            running[self._scheduler.add(request.request)] = text
        except Exception as error:  # noqa: BLE001 - of hours of work, one line must not end the others
            text.fail(error)
        return text

    def _request(self, line: InputLine, text: _Text) -> TextRequest:
        if line.error is not None:
            raise PromptError(line.error)
        taken = [key for key in RESULT_KEYS if key in line.record]
        if taken:
            hint = ": top_logprobs asks for them" if taken == ["logprobs"] else ""
            raise OptionError(f"the output has a key {taken[0]} of its own{hint}; rename or remove the line's")
        sampling = line_options(line.record, self._sampling, line.index)
        prompt_ids = self._prompt_ids(line.record)
        text.request = self._model.text_request(prompt_ids, sampling, on_delta=text.push)
        return text.request

    def _prompt_ids(self, record: Mapping[str, Any]) -> list[int]:
        prompt, messages = record.get("prompt"), record.get("messages")
        if (prompt is None) == (messages is None):
            raise PromptError(
                'a line has either a prompt or messages: {"prompt": TEXT} or '
                '{"messages": [{"role": "user", "content": TEXT}]}'
            )
        tokenizer = self._model.tokenizer
        if messages is None:
            if not isinstance(prompt, str):
                raise PromptError("prompt must be a text")
            return tokenizer.encode_prompt(prompt)
        if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
            raise PromptError('messages must be a list of objects such as {"role": "user", "content": TEXT}')
        # The template has put the special tokens in.
        return tokenizer.encode_prompt(self._model.chat_template.render(messages), add_special_tokens=False)

    def _step(self, running: dict[Sequence, _Text]) -> None:
        for sequence, _ in self._scheduler.step():
            if sequence.finish_reason is None:
                continue
            text = running.pop(sequence)
            if sequence.error is not None:
                text.fail(sequence.error)
            else:
                text.end(sequence, self._model)


class _Text:
    """A line under way: `added` is None until it has ended."""

    def __init__(self, line: InputLine) -> None:
        self.line = line
        self.request: TextRequest | None = None
        self.added: dict[str, Any] | None = None
        self._generation = Generation()
        self._is_ended = False

    def push(self, delta: TextDelta) -> None:
        self._generation.add(delta)
        self._is_ended = delta.finish_reason is not None

    def end(self, sequence: Sequence, model: LanguageModel) -> None:
        result = self._generation
        if self.request is not None and not self._is_ended:  # at a stop token, which brings no text of its own
            result.add(self.request.end("stop"))
        self.added = {
            "completion": result.text,
            "token_ids": result.token_ids,
            "finish_reason": result.finish_reason,
            "prompt_tokens": sequence.prompt_tokens,
            "new_tokens": result.new_tokens,
        }
        if sequence.request.top_logprobs is not None:
            self.added["logprobs"] = logprobs_to_list(result, model.tokenizer)

    def fail(self, error: Exception) -> None:
        message = " ".join(str(error).split())
        if not isinstance(error, SmolTextError):
            message = f"{type(error).__name__}: {message}"
        self.added = {"line": self.line.number, "error": message}


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
