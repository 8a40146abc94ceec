"""A conversation on a terminal, or over pipes: questions in, answers out, commands that begin with a slash.

Answers go to stdout, all that is said about them to stderr.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from runtime.chat_session import ChatSession
from runtime.cli.chat_file import read_messages, write_messages
from runtime.cli.sampling_arguments import described_options, with_option
from runtime.cli.word_wrap import terminal_wrapper
from runtime.errors import PromptError, SmolTextError
from runtime.generation.text_delta import Generation, TextDelta, collect
from runtime.sampling.options import SamplingOptions

QUOTES = '"""'
HELP = """/regen             another answer to the last question
/continue          more of an answer that was cut
/set NAME VALUE    change an option of sampling, such as temperature; /set alone lists them
/system TEXT       begin anew with this system message
/clear             forget the conversation; the system message stays
/save FILE         keep the conversation as JSON; /load FILE goes on with it
/bye               end the chat, as Ctrl-D does
\"""                begins and ends a question of several lines; pasted lines are one question anyway
Ctrl-C             stops an answer"""
Ask = Callable[..., Iterator[TextDelta]]


class ChatConsole:
    """Reads questions until the input ends, and answers them.

    Args:
        session: the conversation.
        sampling: of every answer.
        system: the system message that /clear keeps.
        verbose: what tells what an answer cost; None where nobody wants to know.
    """

    def __init__(
        self,
        session: ChatSession,
        sampling: SamplingOptions,
        system: str | None,
        *,
        verbose: Callable[[Generation], str] | None = None,
    ) -> None:
        self._session, self._sampling, self._system, self._verbose = session, sampling, system, verbose
        self._commands: dict[str, Callable[[str], object]] = {
            "/help": lambda _: _say(HELP),
            "/regen": lambda _: self._answer(self._ask_otherwise),
            "/continue": lambda _: self._answer(session.continue_answer),
            "/set": self._set,
            "/system": self._clear,
            "/clear": lambda _: self._clear(self._system),
            "/save": self._save,
            "/load": self._load,
        }
        self._is_terminal = sys.stdin.isatty()
        if self._is_terminal:
            _use_line_editing()

    def greet(self, model: str) -> None:
        """A line for people: what they talk with, and how to learn more."""
        if self._is_terminal:
            _say(f"{model}. /help lists the commands; Ctrl-C stops an answer, Ctrl-D ends the chat.")

    def answer(self, question: str) -> None:
        """Answer a single question.

        Raises:
            SmolTextError: it cannot be answered, where nobody at a terminal could ask another one.
        """
        self._answer(lambda sampling, **options: self._session.ask(question, sampling, **options))

    def run(self) -> None:
        """Until the end of the input, or /bye.

        Raises:
            SmolTextError: a question that cannot be answered, where nobody at a terminal could ask another one.
            PromptError: bytes that are no UTF-8.
        """
        while (question := self._read()) is not None:
            word, _, rest = question.strip().partition(" ")
            if word in ("/bye", "/exit"):
                return
            if word in self._commands:
                with self._told():
                    self._commands[word](rest.strip())
            elif word.startswith("/") and not rest and word.count("/") == 1:
                _say(f"there is no command {word}; /help lists them")
            elif word:
                self.answer(question)

    def _answer(self, ask: Ask) -> None:
        result = Generation(finish_reason="error")
        with self._told():
            wrapped = terminal_wrapper()
            with _ctrl_c() as stopped:
                answer = ask(self._sampling, is_cancelled=stopped.is_set)
                if self._session.dropped_messages:
                    _say(f"[the context is full: the oldest {self._session.dropped_messages} messages are forgotten]")
                result = collect(
                    answer,
                    prompt_tokens=self._session.prompt_tokens,
                    on_delta=lambda delta: print(wrapped(delta.text), end="", flush=True),
                )
                result.cached_tokens = self._session.prompt_tokens - self._session.prefilled_tokens
            print(flush=True)
        if result.finish_reason == "cancelled":
            _say("[stopped; /continue goes on]")
        elif result.finish_reason in ("length", "incomplete"):
            _say(self._limit_met(result))
        if self._verbose is not None and result.finish_reason != "error":
            _say(self._verbose(result))

    def _limit_met(self, result: Generation) -> str:
        asked = self._sampling.max_new_tokens
        if asked is not None and result.new_tokens >= asked:
            return f"[cut: {asked:,} new tokens, the most that max_new_tokens allows; /continue goes on]"
        return f"[cut: the context of {self._session.context_tokens:,} tokens is full; /clear begins anew]"

    def _ask_otherwise(self, sampling: SamplingOptions, **options: Any) -> Iterator[TextDelta]:
        """The last question again; with a seed, by the next one, for the same would give the same answer."""
        if sampling.seed is not None:
            self._sampling = sampling = replace(sampling, seed=sampling.seed + 1)
        return self._session.ask_again(sampling, **options)

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if name:
            self._sampling = with_option(self._sampling, name, value.strip())
        _say(described_options(self._sampling, name or None))

    def _clear(self, system: str | None) -> None:
        self._system = system
        self._session.reset(system)
        _say("[the conversation begins anew]")

    def _save(self, path: str) -> None:
        write_messages(path, self._session.messages)
        _say(f"[{len(self._session.messages)} messages are in {path}]")

    def _load(self, path: str) -> None:
        messages = read_messages(path)
        self._session.resume(messages)
        self._system = messages[0]["content"] if messages[:1] and messages[0]["role"] == "system" else None
        _say(f"[{len(messages)} messages from {path}]")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """At a terminal what goes wrong is told, and the chat goes on."""
        try:
            yield
        except SmolTextError as error:
            if not self._is_terminal:
                raise
            _say(str(error))

    def _read(self) -> str | None:
        """A question, without its quotes; None at the end of the input."""
        line = self._line("> ")
        if line is None or not line.lstrip().startswith(QUOTES):
            return line
        lines, line = [], line.lstrip().removeprefix(QUOTES)
        while not line.rstrip().endswith(QUOTES):
            lines.append(line)
            following = self._line(". ")
            if following is None:
                return "\n".join(lines)
            line = following
        return "\n".join([*lines, line.rstrip().removesuffix(QUOTES)])

    def _line(self, prompt: str) -> str | None:
        while True:
            try:
                return input(prompt if self._is_terminal else "")
            except EOFError:
                return None
            except KeyboardInterrupt:
                _say("\n(Ctrl-D or /bye ends the chat)")
            except UnicodeDecodeError as error:
                raise PromptError(f"stdin is not UTF-8 text: {error}") from None


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Ctrl-C sets the event; pressed again before that had an effect, it interrupts the program."""
    pressed = threading.Event()

    def press(*_: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _use_line_editing() -> None:
    """Arrow keys, the questions so far, and pasted lines as one question, where Python was built with readline."""
    with suppress(ImportError):
        import readline  # importing it is what makes input() use it

        readline.parse_and_bind("set enable-bracketed-paste on")  # Python turns it off
