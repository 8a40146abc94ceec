"""Results as a Parquet file, made of JSON lines once they are all there. Needs pyarrow, an optional extra."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.batch.lines import RESULT_KEYS
from runtime.batch.parquet_input import ROWS_AT_ONCE, ParquetInput, require_pyarrow

Records = list[dict[str, Any]]


def write_parquet(results: Path, out: Path, *, rows_of: ParquetInput | None) -> None:
    """Write a file of results, JSON lines, as Parquet. The columns of the results come last and are always the same.

    Args:
        results: of the batch, whole.
        out: the file to write.
        rows_of: the input, whose columns keep their types. None for JSON lines: the types are then those of the
            values, and a column whose values have several types becomes texts of JSON.
    """
    pa = require_pyarrow()
    added = _result_schema(pa)
    schema = _inferred_schema(pa, results) if rows_of is None else rows_of.schema.remove_metadata()
    kept = [field for field in schema if field.name not in RESULT_KEYS]
    whole = pa.schema([*kept, *added])
    with pa.parquet.ParquetWriter(out, whole) as writer:
        for records, columns in _inferred_columns(pa, results, kept) if rows_of is None else _columns(results, rows_of):
            found = [pa.array([record.get(field.name) for record in records], field.type) for field in added]
            arrays = [*(columns[field.name] for field in kept), *found]
            writer.write_table(pa.Table.from_arrays(arrays, schema=whole))


def _columns(results: Path, rows_of: ParquetInput) -> Iterator[tuple[Records, dict[str, Any]]]:
    """Results beside the columns that they came from."""
    records = _records(results)
    for batch in rows_of.batches():
        yield list(itertools.islice(records, batch.num_rows)), dict(zip(batch.schema.names, batch.columns, strict=True))


def _inferred_columns(pa: Any, results: Path, fields: list[Any]) -> Iterator[tuple[Records, dict[str, Any]]]:
    for records in _chunks(results):
        columns = {}
        for field in fields:
            values = [record.get(field.name) for record in records]
            if field.metadata:  # values of several types
                values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
            # By way of their own type: an integer of many digits may stand among floats.
            columns[field.name] = pa.array(values).cast(field.type, safe=False)
        yield records, columns


def _result_schema(pa: Any) -> Any:
    token = [("token_id", pa.int64()), ("text", pa.string()), ("logprob", pa.float64())]
    types = {
        "completion": pa.string(),
        "token_ids": pa.list_(pa.int64()),
        "finish_reason": pa.string(),
        "prompt_tokens": pa.int64(),
        "new_tokens": pa.int64(),
        "logprobs": pa.list_(pa.struct([*token, ("top", pa.list_(pa.struct(token)))])),
        "line": pa.int64(),
        "error": pa.string(),
    }
    return pa.schema([(name, types[name]) for name in RESULT_KEYS])


def _inferred_schema(pa: Any, results: Path) -> Any:
    """A type for each key, wide enough for all its values; where there is none, texts, marked as JSON."""
    types: dict[str, Any] = {}
    for records in _chunks(results):
        for name in dict.fromkeys(key for record in records for key in record):
            before = types.get(name, pa.null())
            types[name] = None if before is None else _wider(pa, before, [record.get(name) for record in records])
    mixed = {b"json": b"a column of several types, as JSON"}
    return pa.schema(
        [
            pa.field(name, pa.string(), metadata=mixed) if kind is None or not _is_writable(pa, kind) else (name, kind)
            for name, kind in types.items()
        ]
    )


def _wider(pa: Any, kind: Any, values: list[Any]) -> Any:
    """The type that holds a type and more values, or None."""
    try:
        schemas = [pa.schema([("", each)]) for each in (kind, pa.array(values).type)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError):
        return None


def _is_writable(pa: Any, kind: Any) -> bool:
    """Whether Parquet can hold a type: it has no objects without keys."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_writable(pa, field.type) for field in kind)
    return not pa.types.is_list(kind) or _is_writable(pa, kind.value_type)


def _records(results: Path) -> Iterator[dict[str, Any]]:
    with results.open("rb") as file:
        for line in file:
            record = json.loads(line)
            if b"\\u" in line:  # an escape may be half of a surrogate pair, which Arrow cannot hold
                record = json.loads(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace"))
            yield record


def _chunks(results: Path) -> Iterator[Records]:
    records = _records(results)
    while chunk := list(itertools.islice(records, ROWS_AT_ONCE)):
        yield chunk
