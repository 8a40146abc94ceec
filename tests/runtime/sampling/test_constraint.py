"""Whatever the model says, the output is what the schema or the expression admits."""

from __future__ import annotations

import json
import random
import re
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer as HFTokenizer

from runtime import Bundle, LanguageModel, SamplingOptions
from runtime.errors import ConstraintError, MissingDependencyError
from runtime.sampling.constraint import Constraint, GrammarVocabulary
from runtime.text.tokenizer import Tokenizer
from tests.runtime.files import edit_json, fails

pytest.importorskip("llguidance", reason="constrained output is an extra: pip install llguidance")

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "bc", None]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def is_person(value) -> bool:
    return (
        {"name", "age"} <= set(value) <= {"name", "age", "tags"}
        and isinstance(value["name"], str)
        and len(value["name"]) <= 6
        and value["age"] in range(131)
        and len(value.get("tags", [])) <= 3
        and all(tag in ("a", "bc", None) for tag in value.get("tags", []))
    )


SCHEMAS = [
    (PERSON, is_person),
    ({"enum": ["yes", "no", 3]}, lambda value: value in ("yes", "no", 3)),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4}, lambda value: 2 <= len(value) <= 4),
    (
        {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 10, "maximum": 99}]},
        lambda value: value is None or value in range(10, 100),
    ),
    (
        {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
        lambda value: bool(re.fullmatch("[A-Z]{2}-[0-9]{4}", value)),
    ),
]
EXPRESSIONS = [
    "yes|no",
    "[a-z]{3,8}( [a-z]{1,5}){0,3}",
    r"[0-9]{1,3}\.[0-9]{2}",
    "(ab|a)*c",
    "é+😀?",
    "[^a]{4}",
    " a? b",
]


@pytest.fixture(scope="module", params=["tiny", "stories260k"])
def model(request, tiny_model) -> LanguageModel:
    if request.param == "tiny":
        return tiny_model
    return LanguageModel.load(request.getfixturevalue("stories260k_bundle"), precision="fp32", threads=1)


def outputs(model, prompts=("", "The answer is"), **options):
    for seed in range(6):
        for prompt in prompts:
            sampling = SamplingOptions(temperature=1.5, top_p=1.0, seed=seed, max_new_tokens=150, **options)
            result = model.generate(prompt, sampling)
            assert result.finish_reason == "stop", result
            yield result.text


@pytest.mark.parametrize(("schema", "admits"), SCHEMAS)
def test_the_output_is_json_that_the_schema_admits(schema, admits, model):
    for text in outputs(model, json_schema=schema):
        assert admits(json.loads(text)), text


@pytest.mark.parametrize("regex", EXPRESSIONS)
def test_the_output_is_matched_as_a_whole(regex, model):
    for text in outputs(model, regex=regex):
        assert re.fullmatch(regex, text), text


def test_a_schema_may_be_text_and_greedy_and_biased(tiny_model):
    sampling = SamplingOptions(
        temperature=0, json_schema=json.dumps(PERSON), logit_bias={5: 50.0}, repetition_penalty=1.3, max_new_tokens=150
    )
    assert is_person(json.loads(tiny_model.generate("the", sampling).text))


def test_nothing_is_computed_after_a_text_that_nothing_can_follow(tiny_model, calls):
    result = tiny_model.generate("the", SamplingOptions(seed=1, regex="[0-9]{5}"))
    assert result.finish_reason == "stop"
    assert len(calls) == result.new_tokens == 5


def test_without_stop_tokens_a_grammar_that_ends_still_ends(tiny_model):
    assert re.fullmatch("[0-9]{5}", tiny_model.generate("", SamplingOptions(regex="[0-9]{5}", stop_token_ids=())).text)


def test_a_text_that_is_cut_says_so(tiny_model):
    result = tiny_model.generate("the", SamplingOptions(seed=1, regex="[0-9]{50}", max_new_tokens=7))
    assert (result.finish_reason, len(result.text)) == ("incomplete", 7)


def test_a_text_that_could_go_on_is_not_incomplete(tiny_model):
    result = tiny_model.generate("the", SamplingOptions(seed=1, regex="[0-9]*", stop_token_ids=(), max_new_tokens=7))
    assert (result.finish_reason, len(result.text)) == ("length", 7)


def test_end_of_text_is_allowed_where_the_text_is_complete_and_nowhere_else(tiny_model):
    vocabulary = GrammarVocabulary(tiny_model.tokenizer, 320)
    regex = "a(bb)*"
    constraint = Constraint(vocabulary, SamplingOptions(regex=regex), prompt_tokens=2, stop_token_ids={0, 2})
    ids, letter = [7, 7], {name: tiny_model.tokenizer.token_id(name) for name in "ab"}
    for count, name in enumerate("abbbb"):
        scores = constraint.process(ids, np.zeros(320, np.float32))
        is_complete = count % 2 == 1
        assert {bool(np.isfinite(scores[stop])) for stop in (0, 2)} == {is_complete}
        assert not np.isfinite(scores[1])  # a special token that is no stop token
        ids.append(letter[name])


@pytest.mark.parametrize("vocab_size", [320, 321, 322, 400])
def test_a_grammar_leaves_out_unused_rows_and_unknown_tokens(vocab_size, broken_bundle):
    path = broken_bundle / "tokenizer.json"
    added = HFTokenizer.from_file(str(path))
    added.add_tokens(["ab", "ba"])
    added.save(str(path))
    edit_json(broken_bundle / "config.json", vocab_size=vocab_size)
    tokenizer = Tokenizer(Bundle.open(broken_bundle))
    vocabulary = GrammarVocabulary(tokenizer, vocab_size)
    options = SamplingOptions(regex="(ab|ba)*")
    constraint = Constraint(vocabulary, options, prompt_tokens=0, stop_token_ids={0})
    allowed = np.flatnonzero(np.isfinite(constraint.process([], np.zeros(vocab_size, np.float32)))).tolist()
    letters = [tokenizer.token_id("a"), tokenizer.token_id("b")]
    assert allowed == sorted([0, *letters, *range(320, min(vocab_size, 322))])


def test_a_constraint_follows_a_text_that_goes_back(tiny_model):
    vocabulary = GrammarVocabulary(tiny_model.tokenizer, 320)

    def allowed(constraint, ids):
        return np.isfinite(constraint.process([9, *ids], np.zeros(320, np.float32))).tolist()

    options, randomness = SamplingOptions(regex="(ab|ba){1,6}c"), random.Random(1)
    one = Constraint(vocabulary, options, prompt_tokens=1, stop_token_ids={0})
    text = [tiny_model.tokenizer.token_id(name) for name in "abbaabbaabc"]
    other = [tiny_model.tokenizer.token_id(name) for name in "babababac"]
    for _ in range(40):
        ids = randomness.choice((text, other))[: randomness.randint(0, 11)]
        fresh = Constraint(vocabulary, options, prompt_tokens=1, stop_token_ids={0})
        assert allowed(one, ids) == allowed(fresh, ids)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}}, "Unsatisfiable.*minimum"),
        ({"json_schema": {"allOf": [{"type": "integer"}, {"type": "string"}]}}, "Unsatisfiable"),
        ({"json_schema": False}, "Unsatisfiable"),
        ({"json_schema": {"enum": []}}, "Unsatisfiable"),
        ({"json_schema": {"type": "strin"}}, "strin"),
        ({"json_schema": {"not": {"type": "string"}}}, "not"),
        ({"json_schema": {"$ref": "#/nowhere"}}, "nowhere"),
        ({"json_schema": "{"}, "json_schema is not JSON"),
        ({"json_schema": "[" * 100_000}, "json_schema is not JSON"),
        ({"json_schema": {"a": {1, 2}}}, "json_schema"),
        ({"json_schema": 7}, "json_schema"),
        ({"regex": "("}, "unclosed group"),
        ({"regex": r"(a)\1"}, "backreferences are not supported"),
        ({"regex": r"[^\s\S]"}, "no text satisfies the regex"),
    ],
)
def test_a_grammar_that_cannot_be_met_is_refused_at_the_call(options, words, tiny_model, calls):
    with pytest.raises(ConstraintError, match=words):
        tiny_model.stream("the", SamplingOptions(**options))
    assert calls == []


def test_without_llguidance_the_package_is_named(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match="pip install llguidance"):
        LanguageModel.load(tiny_bundle).stream("the", SamplingOptions(regex="a"))


def test_the_command_takes_a_schema_file_or_an_expression(run, tiny_bundle, tmp_path):
    path = tmp_path / "person.json"
    path.write_text(json.dumps(PERSON))
    options = ["--seed", "1", "--max-new-tokens", "150"]
    code, out, err = run("generate", tiny_bundle, "--json-schema", path, *options, "--json")
    assert (code, err) == (0, "")
    assert is_person(json.loads(json.loads(out)["completion"]))
    assert run("generate", tiny_bundle, "--regex", "[0-9]{3}", *options)[1].strip().isdigit()
    code, out, err = run("generate", tiny_bundle, "--regex", "[0-9]{30}", "--max-new-tokens", "3")
    assert (code, err) == (3, "[cut: the text is not complete; allow more with --max-new-tokens]\n")
    inline = run("generate", tiny_bundle, "--json-schema", json.dumps(PERSON), *options, "--completion-only")[1]
    assert is_person(json.loads(inline))
    path.write_text('{"enum": []}')
    fails(run("generate", tiny_bundle, "--json-schema", path), "Unsatisfiable")
    fails(run("generate", tiny_bundle, "--json-schema", tmp_path / "none"), "cannot be read")
    fails(run("generate", tiny_bundle, "--json-schema", path, "--regex", "a"), "exclude each other")
