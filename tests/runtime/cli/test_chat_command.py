"""`python -m runtime chat`: questions, commands, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.chat_session import ChatSession
from tests.runtime.files import edit_json, fails
from tests.signals import heed_ctrl_c

REPOSITORY = Path(__file__).parents[3]
# The command with a model that takes its time.
SLOW = """
import sys, time
from runtime.__main__ import main
from runtime.engine.session import DecoderSession

forward = DecoderSession.forward
DecoderSession.forward = lambda *args, **options: (time.sleep(0.05), forward(*args, **options))[1]
sys.exit(main(["chat", *sys.argv[1:]]))
"""
SHORT = ["--greedy", "--max-new-tokens", "3"]
LINES = ["--line-by-line"]


@pytest.fixture
def asked(monkeypatch):
    """The questions that reach the model, each with the system message at that time."""
    found = []
    ask = ChatSession.ask

    def recorded(self, question, *rest, **options):
        system = [message["content"] for message in self.messages if message["role"] == "system"]
        found.append((question, *system))
        return ask(self, question, *rest, **options)

    monkeypatch.setattr(ChatSession, "ask", recorded)
    return found


def test_every_line_is_a_question_and_empty_ones_are_none(run, stdin, tiny_bundle, asked):
    stdin(b"hello\n\n   \nand you?\nlast line without an end")
    code, out, _ = run("chat", tiny_bundle, *LINES, *SHORT, "--system", "Be brief.")
    assert code == 0
    assert out.count("\n") >= 3
    assert asked == [(question, "Be brief.") for question in ("hello", "and you?", "last line without an end")]


def test_quotes_hold_a_question_of_several_lines(run, stdin, tiny_bundle, asked):
    stdin(b'"""one\n two\n\nthree"""\n"""single"""\n"""\nnever closed\n')
    assert run("chat", tiny_bundle, *LINES, *SHORT)[0] == 0
    assert [question for question, *_ in asked] == ["one\n two\n\nthree", "single", "\nnever closed"]


def test_commands(run, stdin, tiny_bundle, asked):
    stdin(b"/help\none\n/clear\ntwo\n/system New.\nthree\n/nothing\n/etc/passwd is what?\n/bye\nnot asked\n")
    code, _, err = run("chat", tiny_bundle, *LINES, *SHORT, "--system", "Old.")
    assert code == 0
    assert asked == [("one", "Old."), ("two", "Old."), ("three", "New."), ("/etc/passwd is what?", "New.")]
    assert "/system TEXT" in err
    assert "there is no command /nothing; /help lists them" in err
    assert err.count("begins anew") == 2


def test_a_cut_answer_and_forgotten_messages_are_told(run, stdin, tiny_bundle):
    stdin(b"a question of some length\n" * 8)
    options = ["--greedy", "--max-new-tokens", "20", "--stop-token-id", "1", "--context-policy", "drop_oldest"]
    code, _, err = run("chat", tiny_bundle, *LINES, *options)
    assert code == 0
    assert err.count("[cut: ") == 8
    assert "messages are forgotten]" in err


def test_another_answer_and_more_of_one(run, stdin, tiny_bundle, asked):
    stdin(b"one\n/regen\n/continue\n/continue\ntwo\n/regen\n")
    code, out, err = run("chat", tiny_bundle, *LINES, "--max-new-tokens", "5", "--seed", "1", "--stop-token-id", "1")
    assert code == 0
    assert [question for question, *_ in asked] == ["one", "one", "two", "two"]
    assert err.count("/continue goes on]") == 6
    lines = out.splitlines()
    assert lines[0] != lines[1]


def test_options_change_on_the_way(run, stdin, tiny_bundle):
    stdin(b"/set max-new-tokens 2\none\n/set temperature 0\n/set seed default\n/set\n")
    code, _, err = run("chat", tiny_bundle, *LINES, "--seed", "1", "--stop-token-id", "1")
    assert code == 0
    assert "[cut: 2 new tokens, the most that max_new_tokens allows; /continue goes on]" in err
    assert re.search(r"temperature +0\.0 +0 is greedy", err)
    assert re.search(r"^seed +None", err, re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/set temprature 1", "did you mean temperature?"),
        ("/set temperature warm", "temperature must be 0 (greedy) or above, not 'warm'"),
        ("/set top_p 2", "top_p must be above 0"),
        ("/regen", "there is no answer yet"),
        ("/continue", "there is no answer yet"),
        ("/save", "/save chat.json"),
        ("/load nothing-there", "cannot be read"),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_one_line(command, words, run, stdin, tiny_bundle):
    stdin(command.encode() + b"\n")
    fails(run("chat", tiny_bundle, *LINES, *SHORT), words)


def test_a_saved_conversation_goes_on(run, stdin, tiny_bundle, tmp_path, asked):
    path = tmp_path / "chat.json"
    stdin(f"one\n/save {path}\n".encode())
    assert run("chat", tiny_bundle, *LINES, *SHORT, "--system", "Old.")[0] == 0
    messages = json.loads(path.read_text())["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    stdin(f"/load {path}\ntwo\n/clear\nthree\n/save {path}\n".encode())
    assert run("chat", tiny_bundle, *LINES, *SHORT)[0] == 0
    assert asked == [("one", "Old."), ("two", "Old."), ("three", "Old.")]
    assert list(tmp_path.iterdir()) == [path]
    path.write_text('{"messages": [{"role": "user"}]}')
    stdin(f"/load {path}\n".encode())
    fails(run("chat", tiny_bundle, *LINES), "must hold")


def test_piped_text_is_one_question(tiny_bundle):
    command = [sys.executable, "-m", "runtime", "chat", str(tiny_bundle), *SHORT, "--verbose"]
    done = subprocess.run(
        command, cwd=REPOSITORY, input="one\n\ntwo\n", capture_output=True, text=True, check=True, timeout=60
    )
    lines = subprocess.run(
        [*command, "--line-by-line"],
        cwd=REPOSITORY,
        input="one\n\ntwo\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert (done.stderr.count("[prompt: "), lines.stderr.count("[prompt: ")) == (1, 2)


def test_an_answer_may_run_to_the_context_and_says_so(run, stdin, tiny_bundle):
    stdin(b"hello\n")
    code, _, err = run("chat", tiny_bundle, *LINES, "--greedy", "--stop-token-id", "1")
    assert code == 0
    assert "[cut: the context of 192 tokens is full; /clear begins anew]" in err


def test_chat_without_input_says_nothing(run, stdin, tiny_bundle):
    stdin(b"")
    assert run("chat", tiny_bundle) == (0, "", "")


def test_chat_with_a_model_that_cannot_says_so_before_the_first_question(run, stdin, broken_bundle):
    edit_json(broken_bundle / "tokenizer_config.json", chat_template=None)
    stdin(b"hello\n")
    fails(run("chat", broken_bundle), "no chat template", "generate")


def test_a_chat_longer_than_the_context_is_an_error(run, stdin, tiny_bundle):
    stdin(b"x" * 500 + b"\n")
    fails(run("chat", tiny_bundle, "--greedy"), "context is 192")


class Terminal:
    """A chat on a pseudo-terminal."""

    def __init__(self, bundle: Path, *options: str) -> None:
        self._master, follower = pty.openpty()
        command = [sys.executable, "-c", SLOW, str(bundle), *options]
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - it takes no lock
        )
        os.close(follower)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str, seconds: float = 30) -> None:
        """Until the text is shown, after what was waited for before."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} did not come; shown was {self.shown!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                self.shown += os.read(self._master, 4096).decode(errors="replace")
        self.shown = self.shown[self.shown.index(text) + len(text) :]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def test_on_a_terminal_a_question_that_does_not_fit_is_told_and_the_chat_goes_on(tiny_bundle):
    terminal = Terminal(tiny_bundle, *SHORT)
    try:
        terminal.wait_for("> ")
        terminal.type("x" * 250 + "\n")
        terminal.wait_for("shorten the question")
        terminal.wait_for("> ")
        terminal.type("short\n")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.process.wait(20) == 0
    finally:
        terminal.close()


def test_pasted_lines_are_one_question_and_a_greeting_comes_first(tiny_bundle):
    readline = pytest.importorskip("readline")
    if "libedit" in (readline.__doc__ or ""):
        pytest.skip("libedit does not know pasted text")
    terminal = Terminal(tiny_bundle, *SHORT, "--verbose")
    try:
        terminal.wait_for("/help lists the commands")
        terminal.wait_for("> ")
        time.sleep(0.5)  # the prompt is shown before readline waits
        terminal.type("\x1b[200~one\ntwo\n\nthree\x1b[201~\n")
        terminal.wait_for("[prompt: ")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.process.wait(20) == 0
        assert "[prompt: " not in terminal.shown
    finally:
        terminal.close()


def test_ctrl_c_stops_the_answer_and_not_the_chat(tiny_bundle):
    terminal = Terminal(tiny_bundle, "--greedy", "--max-new-tokens", "100", "--stop-token-id", "1")
    try:
        terminal.wait_for("> ")
        terminal.type("hello\n")
        terminal.wait_for("hello")
        time.sleep(0.5)
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("[stopped; ")
        terminal.wait_for("> ")
        time.sleep(0.5)  # the prompt is shown before readline waits
        terminal.process.send_signal(signal.SIGINT)  # while it waits for a question
        terminal.wait_for("/bye ends the chat")
        terminal.wait_for("> ")
        terminal.type("/bye\n")
        assert terminal.process.wait(20) == 0
    finally:
        terminal.close()
