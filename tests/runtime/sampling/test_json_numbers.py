"""Numbers in constrained JSON end, however much the model likes its digits."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from runtime import SamplingOptions
from runtime.sampling.json_numbers import MAX_DIGITS, MAX_EXPONENT_DIGITS, digit_run, forbid_digits, leading_digits

LONGEST = 2 * MAX_DIGITS + MAX_EXPONENT_DIGITS + len("-.e+")


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("", MAX_DIGITS),
        ("123", MAX_DIGITS - 3),
        ("[1, 23", MAX_DIGITS - 2),
        ("-1." + "5" * MAX_DIGITS, 0),
        ("1" * (MAX_DIGITS + 3), 0),
        ("12.", MAX_DIGITS),
        ("1e", MAX_EXPONENT_DIGITS),
        ("1E-", MAX_EXPONENT_DIGITS),
        ("1e+12", 0),
        ("[1e5, 7", MAX_DIGITS - 1),
        ("[true, 7", MAX_DIGITS - 1),
        ('"' + "1" * 40, MAX_DIGITS),
        (r'"a\"' + "1" * 40, MAX_DIGITS),
        (r'"a\\", 12', MAX_DIGITS - 2),
    ],
)
def test_room_is_that_of_the_number_under_way(text, room):
    assert digit_run([text.encode()]).room == room
    assert digit_run([bytes([byte]) for byte in text.encode()]).room == room


def test_tokens_that_would_overrun_are_forbidden_unless_nothing_else_is_left():
    texts = [b"1", b"12", b"123,", b",", b" 1", b"e"]
    digits = leading_digits(len(texts), texts.__getitem__)
    assert digits.tolist() == [1, 2, 3, 0, 0, 0]
    everything = np.ones(len(texts), bool)
    assert forbid_digits(everything, digits, 2).tolist() == [True, True, False, True, True, True]
    only_digits = digits > 0
    assert forbid_digits(only_digits, digits, 0).tolist() == only_digits.tolist()


@pytest.mark.parametrize("kind", ["number", "integer"])
@pytest.mark.parametrize("seed", range(4))
def test_a_model_that_loves_digits_ends_its_numbers(kind, seed, tiny_model):
    pytest.importorskip("llguidance", reason="constrained output is an extra: pip install llguidance")
    loved = {tiny_model.tokenizer.token_id(digit): 30.0 for digit in "0123456789"}
    schema = {"type": "array", "items": {"type": kind}, "minItems": 2, "maxItems": 2}
    result = tiny_model.generate(
        "", SamplingOptions(seed=seed, json_schema=schema, logit_bias=loved, max_new_tokens=150)
    )
    assert result.finish_reason == "stop"
    assert len(json.loads(result.text)) == 2
    assert max(map(len, re.findall(r"[-+.eE0-9]+", result.text))) <= LONGEST


def test_a_number_that_the_schema_wants_longer_is_as_long(tiny_model):
    pytest.importorskip("llguidance", reason="constrained output is an extra: pip install llguidance")
    long = 10**20
    result = tiny_model.generate("", SamplingOptions(seed=1, json_schema={"const": long}, max_new_tokens=60))
    assert json.loads(result.text) == long
