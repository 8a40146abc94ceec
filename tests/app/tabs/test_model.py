"""Model: the card, the tokens of a text, a measurement, and lines that reproduce a text."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from app.loss_curve import MOST_POINTS, loss_curve
from app.reproduce import Reproduction
from app.tabs import model as model_tab
from app.tokens import pieces
from runtime.bundle import Bundle
from runtime.text.tokenizer import Tokenizer

REPOSITORY = Path(__file__).parents[3]
TEXTS = [
    "The mouse knew the cat.",
    "  two spaces, a tab\tand\n\na line  ",
    "naïve café — “quotes”",
    "Tom 😀 sat. 👩‍👩‍👧‍👦 नमस्ते 漢字",
    "\u200b\u0007",
]


@pytest.fixture(scope="module", params=["tiny", "stories260k", "smollm2"])
def tokenizer(request, tiny_bundle, shared_data) -> Tokenizer:
    """Bytes as letters, byte fallback, and a vocabulary of 49,152."""
    bundle = Bundle.open(tiny_bundle)
    folders = {
        "tiny": tiny_bundle,
        "stories260k": shared_data / "stories260k",
        "smollm2": shared_data / "smollm2-tokenizer",
    }
    shape = replace(bundle.shape, vocab_size=49152)
    return Tokenizer(replace(bundle, folder=folders[request.param], shape=shape))


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_joined_are_the_text_and_their_ids_the_tokens(tokenizer, text):
    ids = tokenizer.encode(text)
    found = pieces(tokenizer, ids)
    assert "".join(piece.text for piece in found if not piece.is_special) == tokenizer.decode(ids) == text
    assert [token_id for piece in found for token_id in piece.token_ids] == ids


def test_a_character_of_several_tokens_is_one_piece(tokenizer):
    found = pieces(tokenizer, tokenizer.encode("a 😀!"))
    (emoji,) = [piece for piece in found if "😀" in piece.text]
    assert len(emoji.token_ids) > 1
    assert emoji.text.strip() == "😀"
    assert all("\ufffd" not in piece.text for piece in found)


def test_bytes_that_are_no_character_are_a_piece_that_says_so(tokenizer):
    (id_, *_) = next(piece.token_ids for piece in pieces(tokenizer, tokenizer.encode("😀")) if len(piece.token_ids) > 1)
    assert [piece.text for piece in pieces(tokenizer, [id_])] == ["\ufffd"]


def test_special_tokens_are_marked(page, endless_bundle):
    found = page.post("/page/tokenize", text="Hi<|im_end|>")
    assert found["pieces"][0] == ["<|endoftext|>", [0], True]
    assert found["pieces"][-1] == ["<|im_end|>", [2], True]
    assert (found["characters"], found["bytes"]) == (12, 12)
    assert found["tokens"] == len(Tokenizer(endless_bundle).encode("Hi<|im_end|>"))


def test_a_question_is_shown_as_the_template_writes_it(page):
    found = page.post("/page/tokenize", text="Hi", as_question=True)
    assert "".join(piece for piece, *_ in found["pieces"]).startswith("<|im_start|>user\nHi<|im_end|>")


def test_no_text_has_no_tokens(page):
    assert page.post("/page/tokenize", text="") == {"pieces": [], "tokens": 0, "characters": 0, "bytes": 0}


def test_a_text_past_the_limit_is_refused_and_never_echoed(page):
    status, message = page.refused("/page/tokenize", text="x" * 20_001)
    assert status == 400
    assert "xxx" not in message


def test_the_card_tells_what_the_manifest_does(page, endless_bundle):
    card = page.get("/page/model")
    assert card["parameters"] == endless_bundle.manifest["parameters"]
    assert set(card["precisions"]) == {"fp32", "int8"}
    assert card["precisions"]["int8"]["file_bytes"] == endless_bundle.file_bytes("int8")
    assert card["context_tokens"] == 192
    assert card["losses"] is None


def test_the_card_of_another_exporters_bundle(open_page, endless_bundle):
    card = open_page(replace(endless_bundle, manifest={})).get("/page/model")
    assert (card["source"], card["parameters"], card["reference"]) == (None, {}, {})


def test_the_card_has_the_comparison_and_no_path_of_this_machine(open_page, endless_bundle):
    rows = {"int8": {"kl": 0.01, "perplexity": 3.5, "top1_agreement": 0.9, "unknown": 1}}
    comparison = {"text": "t.txt", "tokens": 9, "reference": {"name": "PyTorch", "perplexity": 3.4}, "precisions": rows}
    manifest = {**endless_bundle.manifest, "comparison": comparison, "source": "/home/me/runs/demo/checkpoint"}
    card = open_page(replace(endless_bundle, manifest=manifest)).get("/page/model")
    assert card["source"] == "demo/checkpoint"
    assert card["precisions"]["int8"].items() >= {"kl": 0.01, "perplexity": 3.5}.items()
    assert "unknown" not in card["precisions"]["int8"]
    assert "kl" not in card["precisions"]["fp32"]
    assert card["reference"]["perplexity"] == 3.4


def test_a_run_at_hand_brings_its_losses(tmp_path):
    checkpoint = tmp_path / "run" / "checkpoint"
    checkpoint.mkdir(parents=True)
    lines = [{"step": step, "loss": 4 - step / 1000} for step in range(1, 1001)]
    lines += [{"step": 500, "held_out_loss": 3.6}, {"step": 1000, "held_out_loss": 3.1}]
    (checkpoint.parent / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = loss_curve(str(checkpoint))
    assert len(found["training"]) <= MOST_POINTS + MOST_POINTS // 2
    assert found["training"][-1][0] == 1000
    assert found["held_out"] == [[500, 3.6], [1000, 3.1]]


@pytest.mark.parametrize("text", ["", "{", '{"loss": 1}', "[1]"])
def test_a_run_that_cannot_be_read_has_no_curve(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text(text)
    assert loss_curve(str(tmp_path)) is None
    assert loss_curve(str(tmp_path / "absent")) is None
    assert loss_curve(None) is None


def test_a_measurement_tells_rows_of_speeds(page, monkeypatch):
    monkeypatch.setattr(model_tab, "MEASURE_SECONDS", 0.2)
    events = page.events("/page/measure", precision="int8")
    rows = [event["row"] for event in events if "row" in event]
    assert rows
    for row in rows:
        assert (row["precision"], row["prompt_tokens"], row["new_tokens"], row["others"]) == ("int8", 96, 64, 0)
        assert row["prefill_tokens_per_second"] > 0
        assert row["decode_tokens_per_second"] > 0
    assert events[-1] == {"end": {}}


WISHES = {
    "plain": {"text": "The mouse"},
    "empty": {"text": ""},
    "hostile": {"text": 'it\'s "$HOME" `id`\n\\ {x} %s', "sampling": {"top_p": 0.5, "seed": 3}},
    "dash": {"text": "--help", "sampling": {"temperature": 0, "stop_strings": ["-x", "a\nb"]}},
    "stdin": {"text": "-", "sampling": {"temperature": 0}},
    "question": {"text": "Who?", "as_question": True, "system": "Don't.", "sampling": {"temperature": 0}},
    "regex": {"text": "The", "sampling": {"regex": "[a-c ]{4,8}", "seed": 1}},
    "schema": {"text": "", "sampling": {"json_schema": '{"type": "boolean"}', "seed": 1}},
}


@pytest.mark.parametrize("name", WISHES)
def test_the_lines_make_the_text_of_the_page(open_page, tiny_bundle, name, tmp_path):
    wish = {"sampling": {}, **WISHES[name], "precision": "fp32"}
    wish["sampling"] = {"max_new_tokens": 16, "seed": 11, **wish["sampling"]}
    page = open_page(Bundle.open(tiny_bundle))
    expected = "".join(text for event in page.events("/page/compare", **wish) for text, _ in event.get("tokens", []))
    lines = page.post("/page/reproduce", **wish)
    script = tmp_path / "lines.py"
    script.write_text(lines["python"])
    done = run([sys.executable, str(script)])
    assert (done.stdout, done.returncode) == (expected, 0), done.stderr
    command = lines["command_line"].replace("python -m", f"{shlex.quote(sys.executable)} -m", 1)
    done = run(["sh", "-c", command + " --completion-only"])
    assert done.stdout.removesuffix("\n") == expected.removesuffix("\n"), done.stderr


def run(command: list[str]) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_length_is_what_there_is_room_for(page):
    lines = page.post("/page/reproduce", text="The mouse", sampling={"max_new_tokens": 4096})
    room = 192 - page.post("/page/tokenize", text="The mouse")["tokens"]
    assert f"--max-new-tokens {room}" in lines["command_line"]
    assert f"max_new_tokens={room}" in lines["python"]


def test_only_what_differs_from_the_models_own_is_named():
    wanted = Reproduction("bundles/demo", "int8", {}, "Hi")
    assert wanted.command_line() == "python -m runtime generate bundles/demo --precision int8 --prompt Hi"
