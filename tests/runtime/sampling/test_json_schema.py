"""Schemas as pydantic writes them mean the same to the grammar, or are refused by name."""

from __future__ import annotations

import json

import pytest

from runtime import SamplingOptions
from runtime.errors import ConstraintError
from runtime.sampling.json_schema import parse_schema, supported_schema

NAMES = {"$defs": {"Colour": {"enum": ["red", "blue"], "type": "string"}}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string", "format": "path"}, {"type": "string"}),
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}),
        ({"anyOf": [{"format": "password"}, True]}, {"anyOf": [{}, True]}),
        ({"properties": {"format": {"format": "binary"}}}, {"properties": {"format": {}}}),
        ({"const": {"format": "path", "uniqueItems": True}}, {"const": {"format": "path", "uniqueItems": True}}),
        ({"type": "array", "uniqueItems": False}, {"type": "array"}),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, {"type": "array", "maxItems": 1}),
        (
            {"propertyNames": {"pattern": "^k"}, "additionalProperties": {"format": "path"}},
            {"patternProperties": {"^k": {}}, "additionalProperties": False},
        ),
        (
            {**NAMES, "propertyNames": {"$ref": "#/$defs/Colour"}, "additionalProperties": {"type": "null"}},
            {
                **NAMES,
                "properties": {"red": {"type": "null"}, "blue": {"type": "null"}},
                "additionalProperties": False,
            },
        ),
        (True, True),
    ],
)
def test_what_the_compiler_lacks_is_said_otherwise(schema, expected):
    given = json.dumps(schema)
    assert supported_schema(schema) == expected
    assert json.dumps(schema) == given


@pytest.mark.parametrize("where", [lambda part: part, lambda part: {"$defs": {"a": {"items": part}}}])
def test_unique_items_are_refused_by_name(where):
    with pytest.raises(ConstraintError, match="uniqueItems cannot be promised"):
        supported_schema(where({"type": "array", "uniqueItems": True}))


def test_text_that_is_no_json_is_named():
    with pytest.raises(ConstraintError, match="json_schema is not JSON"):
        parse_schema("{nothing")


def test_what_pydantic_writes_for_an_enumerated_dictionary_is_honoured(tiny_model):
    pytest.importorskip("llguidance", reason="constrained output is an extra: pip install llguidance")
    schema = {
        **NAMES,
        "type": "object",
        "propertyNames": {"$ref": "#/$defs/Colour"},
        "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9},
        "minProperties": 1,
    }
    for seed in range(4):
        result = tiny_model.generate("", SamplingOptions(seed=seed, json_schema=schema, max_new_tokens=60))
        value = json.loads(result.text)
        assert value
        assert set(value) <= {"red", "blue"}
        assert all(number in range(10) for number in value.values())
