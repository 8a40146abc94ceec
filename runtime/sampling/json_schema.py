"""JSON schemas as people and pydantic write them, made into those that the grammar's compiler takes.

What it refuses and we can say otherwise is said otherwise; the rest is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from runtime.errors import ConstraintError

# Formats of pydantic (for Path, SecretStr, bytes) that say nothing of what the string may hold.
FREE_FORMATS = {"path", "file-path", "directory-path", "password", "binary", "base64url", "json-string"}
# Keywords whose value is a schema, a list of schemas, or schemas by name (JSON Schema 2020-12, core, section 10).
SCHEMA, SCHEMAS, NAMED_SCHEMAS = (
    {"items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames", "contentSchema"},
    {"allOf", "anyOf", "oneOf", "prefixItems"},
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"},
)


def parse_schema(schema: Any) -> Any:
    """A JSON schema from its text; any other value is returned unchanged. Raises ConstraintError for invalid JSON."""
    if not isinstance(schema, str):
        return schema
    try:
        return json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise ConstraintError(f"json_schema is not JSON: {error}") from None


def supported_schema(schema: Any) -> Any:
    """An equivalent schema without what the compiler lacks.

    - `format` with a name that leaves the string free is left out;
    - `propertyNames` with an enumeration becomes `properties`, with a pattern `patternProperties`;
    - `uniqueItems` of lists with one item at most is left out.

    Raises:
        ConstraintError: `uniqueItems` of longer lists.
    """
    return _rewritten(schema, schema)


def _rewritten(schema: Any, root: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    result = dict(schema)
    if result.get("format") in FREE_FORMATS:
        del result["format"]
    if result.get("uniqueItems") is False or (result.get("uniqueItems") and result.get("maxItems", 2) < 2):
        del result["uniqueItems"]
    if result.get("uniqueItems"):
        raise ConstraintError(
            "json_schema: uniqueItems cannot be promised (pydantic writes it for a set): ask for a list, and drop what "
            "comes twice"
        )
    if "propertyNames" in result:
        result = _named_properties(result, root)
    for key, value in result.items():
        if key in SCHEMA:
            result[key] = _rewritten(value, root)
        elif key in SCHEMAS and isinstance(value, list):
            result[key] = [_rewritten(part, root) for part in value]
        elif key in NAMED_SCHEMAS and isinstance(value, Mapping):
            result[key] = {name: _rewritten(part, root) for name, part in value.items()}
    return result


def _named_properties(schema: dict[str, Any], root: Any) -> dict[str, Any]:
    """The same without `propertyNames`, where its names are an enumeration or a pattern; else unchanged."""
    names = _resolved(schema["propertyNames"], root)
    value = schema.get("additionalProperties", True)
    if not isinstance(names, Mapping) or "properties" in schema or "patternProperties" in schema:
        return schema
    rest = {key: part for key, part in schema.items() if key not in ("propertyNames", "additionalProperties")}
    listed = names.get("enum", [names["const"]] if "const" in names else None)
    if listed is not None:
        return rest | {"properties": {str(name): value for name in listed}, "additionalProperties": False}
    if set(names) - {"title", "type", "description"} == {"pattern"}:
        return rest | {"patternProperties": {names["pattern"]: value}, "additionalProperties": False}
    return schema


def _resolved(schema: Any, root: Any) -> Any:
    """What a local reference (`#/$defs/Name`) stands for."""
    reference = schema.get("$ref", "") if isinstance(schema, Mapping) else ""
    if not reference.startswith("#/"):
        return schema
    for part in reference[2:].split("/"):
        root = root.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(root, Mapping) else {}
    return root
