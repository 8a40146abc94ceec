"""Parquet files as the input of a batch: a row is a line. Needs pyarrow, an optional extra."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Self

from runtime.batch.lines import InputLine
from runtime.errors import MissingDependencyError, PromptError

ROWS_AT_ONCE = 1024


def is_parquet(path: str | Path) -> bool:
    """Whether a path's name says that it is a Parquet file."""
    return str(path).endswith(".parquet")


def require_pyarrow() -> Any:
    """The module pyarrow, with `pyarrow.parquet` loaded. Raises MissingDependencyError where it is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError("Parquet files need pyarrow: pip install pyarrow") from None
    return pa


class ParquetInput:
    """The rows of a Parquet file as lines: a column is a key, and null a key that is not given.

    Raises:
        PromptError: the file cannot be read.
        MissingDependencyError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._pa = require_pyarrow()
        self.path = path
        try:
            with path.open("rb") as file:
                self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self._file = self._pa.parquet.ParquetFile(path)
        except self._pa.ArrowInvalid as error:
            raise PromptError(f"{path} is cut off or is not Parquet: {str(error).splitlines()[0]}") from None
        except OSError as error:
            raise PromptError(f"{path} cannot be read: {error.strerror or error}") from None
        self.count: int = self._file.metadata.num_rows

    @property
    def schema(self) -> Any:
        """The Arrow schema of the columns."""
        return self._file.schema_arrow

    def batches(self) -> Iterator[Any]:
        """The rows as Arrow record batches."""
        yield from self._file.iter_batches(ROWS_AT_ONCE)

    def lines(self, start: int = 0) -> Iterator[InputLine]:
        """The rows from index `start` on. What JSON cannot hold (dates, bytes, decimals) becomes a text."""
        rows = (row for batch in self.batches() for row in batch.to_pylist(maps_as_pydicts="lossy"))
        for index, row in enumerate(itertools.islice(rows, start, None), start=start):
            record = _to_json(row)
            yield InputLine(index + 1, index, json.dumps(record), record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _to_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.isoformat() if isinstance(value, (date, datetime, time)) else str(value)
