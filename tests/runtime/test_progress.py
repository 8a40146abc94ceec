"""A bar on a terminal, a line every few seconds in a log, and nothing where nothing should be shown."""

from __future__ import annotations

import re
import sys

import pytest

from runtime import progress
from runtime.progress import bar_class, progress_bar, write_line


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved; tqdm's own runs on."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar_class().last_line = 0.0
    return now


def run(clock, items: int, seconds_each: float, **options):
    for _ in progress_bar(range(items), description="compare", unit="windows", **options):
        clock[0] += seconds_each


def test_a_log_gets_a_line_every_few_seconds(clock, capsys):
    with progress_bar(description="compare", unit="windows", total=100) as bar:
        for _ in range(100):
            clock[0] += 1
            bar.n += 1
            bar.refresh()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 100 / progress.SECONDS_BETWEEN_LINES
    assert lines[0].startswith("compare: 5 of 100 windows in ")
    assert all("\r" not in line and "\x1b" not in line for line in lines)


def test_work_of_unknown_length_that_goes_on_says_what_it_is_at(clock, capsys):
    with progress_bar(description="tokenize", unit="documents", initial=40) as bar:
        bar.set_description_str("stories", refresh=False)
        bar.set_postfix_str("3 skipped", refresh=False)
        clock[0] += progress.SECONDS_BETWEEN_LINES
        bar.n += 2
        bar.refresh()
    assert re.fullmatch(r"stories: 42 documents in 00:0\d, 3 skipped\n", capsys.readouterr().err)


def test_a_line_between_the_updates_of_a_bar_stands_alone(clock, capsys):
    for _ in progress_bar(range(3), description="train", unit="steps"):
        write_line("step 1: loss 2.5")
    assert capsys.readouterr().err == "step 1: loss 2.5\n" * 3


def test_short_work_writes_nothing_into_a_log(clock, capsys):
    run(clock, 10_000, 0.0001)
    assert capsys.readouterr().err == ""


def test_bars_side_by_side_share_the_lines_of_a_log(clock, capsys):
    bars = [progress_bar(description=name, unit="bytes", total=10) for name in ("first", "second", "third")]
    for _ in range(10):
        clock[0] += progress.SECONDS_BETWEEN_LINES
        for bar in bars:
            bar.refresh()
    assert len(capsys.readouterr().err.splitlines()) == 10
    for bar in bars:
        bar.close()


def test_a_terminal_gets_a_bar_that_leaves_nothing(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run(clock, 3, 10)
    shown = capsys.readouterr().err
    assert "compare:" in shown
    assert shown.rstrip(" ").endswith("\r")
    assert "\n" not in shown.strip()


def test_a_bar_that_is_not_to_be_shown_writes_nothing(clock, capsys):
    run(clock, 3, 100, show=False)
    assert capsys.readouterr().err == ""


def test_without_stderr_the_work_goes_on(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    run(clock, 3, 100)
