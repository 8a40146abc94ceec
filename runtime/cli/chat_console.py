"""A conversation on a terminal, or over pipes: questions in, answers out, commands that begin with a slash.

Answers go to stdout, all that is said about them to stderr.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runtime.chat_session import ChatSession
from runtime.errors import PromptError, SmolTextError
from runtime.sampling.options import SamplingOptions

QUOTES = '"""'
HELP = """/help          this list
/reset         forget the conversation; the system message stays
/system TEXT   begin anew with this system message
/exit          end the chat, as Ctrl-D does
\"""            begins and ends a question of several lines
Ctrl-C         stops an answer"""


class ChatConsole:
    """Reads questions until the input ends, and answers them.

    Args:
        session: the conversation.
        sampling: of every answer.
        system: the system message that /reset keeps.
    """

    def __init__(self, session: ChatSession, sampling: SamplingOptions, system: str | None) -> None:
        self._session = session
        self._sampling = sampling
        self._system = system
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: _say(HELP),
            "/reset": lambda _: self._reset(self._system),
            "/system": self._reset,
        }
        self._is_terminal = sys.stdin.isatty()
        if self._is_terminal:
            _use_line_editing()

    def run(self) -> None:
        """Until the end of the input, or /exit.

        Raises:
            SmolTextError: a question that cannot be answered, where nobody at a terminal could ask another one.
            PromptError: bytes that are no UTF-8.
        """
        while (question := self._read()) is not None:
            word, _, rest = question.strip().partition(" ")
            if word == "/exit":
                return
            if word in self._commands:
                self._commands[word](rest.strip())
            elif word.startswith("/") and not rest and word.count("/") == 1:
                _say(f"there is no command {word}; /help lists them")
            elif word:
                self._answer(question)

    def _answer(self, question: str) -> None:
        reason = None
        try:
            with _ctrl_c() as stopped:
                answer = self._session.ask(question, self._sampling, is_cancelled=stopped.is_set)
                if self._session.dropped_messages:
                    _say(f"[the context is full: the oldest {self._session.dropped_messages} messages are forgotten]")
                for chunk in answer:
                    print(chunk.text, end="", flush=True)
                    reason = chunk.finish_reason
            print(flush=True)
        except SmolTextError as error:
            if not self._is_terminal:
                raise
            _say(str(error))
        if reason == "cancelled":
            _say("[stopped]")
        elif reason == "length":
            _say("[cut: no more new tokens are allowed, or the context is full]")

    def _reset(self, system: str | None) -> None:
        self._system = system
        self._session.reset(system)
        _say("[the conversation begins anew]")

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
                _say("\n(Ctrl-D or /exit ends the chat)")
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
    """Arrow keys, and the questions so far, where Python was built with readline."""
    try:
        import readline  # noqa: F401 - importing it is what makes input() use it
    except ImportError:
        return
