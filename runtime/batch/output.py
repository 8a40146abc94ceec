"""The output of a batch: stdout, or a file that appears when it is whole and goes on where it stopped.

`OUT.job.json` beside `OUT` says what it is made of: input, model and options. Lines are appended to `OUT.partial`,
which is renamed to `OUT` when all are done.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

from runtime.batch.lines import Result
from runtime.errors import BatchError

RECORD_FORMAT = 1
# Of a job's keys, what an error calls one that differs.
WORDS = {
    "format": "another version",
    "input_sha256": "another input",
    "model_sha256": "another model",
    "precision": "another precision",
    "sampling": "other options",
}


class BatchOutput(Protocol):
    """Takes results in order.

    Attributes:
        done: lines that are written, those of earlier runs included.
        failed: how many of these have an error.
        is_finished: an earlier run wrote all of it.
    """

    done: int
    failed: int
    is_finished: bool

    def write(self, result: Result) -> None:
        """Append a line."""

    def finish(self) -> None:
        """All lines are written."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class StandardOutput:
    """Writes lines to stdout, in UTF-8 whatever the terminal's encoding."""

    is_finished = False

    def __init__(self) -> None:
        self.done = self.failed = 0

    def write(self, result: Result) -> None:
        """Append a line; a reader of the pipe has it at once."""
        sys.stdout.buffer.write(result.to_bytes())
        sys.stdout.buffer.flush()
        self.done += 1
        self.failed += result.failed

    def finish(self) -> None:
        """Nothing is left to do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class OutputFile:
    """A file of results.

    Args:
        path: the file, which is there once it is whole.
        job: what the results depend on, as JSON values; another job's output is not touched.
        overwrite: begin anew, whatever is there.
        convert: makes the file from one of JSON lines, both named; None where JSON lines are what it holds.

    Raises:
        BatchError: there is an output of another job, another process writes it, or it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        job: Mapping[str, Any],
        *,
        overwrite: bool = False,
        convert: Callable[[Path, Path], None] | None = None,
    ) -> None:
        self.path = path
        self.done = self.failed = 0
        self.is_finished = False
        self._partial = path.with_name(f"{path.name}.partial")
        self._record = path.with_name(f"{path.name}.job.json")
        self._job = {"format": RECORD_FORMAT, **job}
        self._convert = convert
        self._file: BinaryIO | None = None
        self._has_begun = False
        try:
            self._open(overwrite)
        except OSError as error:
            raise BatchError(f"{path} cannot be written: {error.strerror}") from None

    def write(self, result: Result) -> None:
        """Append a line, so that it outlives this process.

        Raises:
            BatchError: it cannot be written, as when the disk is full; the lines before it are kept.
        """
        left = memoryview(result.to_bytes())
        try:
            self._begin()
            while left and self._file is not None:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._stopped(error) from None
        self.done += 1
        self.failed += result.failed

    def finish(self) -> None:
        """Put the file in its place.

        Raises:
            BatchError: it cannot be written; all lines are kept.
        """
        whole = self._partial
        try:
            self._begin()
            if self._convert is not None:
                whole = self.path.with_name(f"{self.path.name}.tmp")
                self._convert(self._partial, whole)
            with whole.open("rb") as file:
                os.fsync(file.fileno())
            self._write_record({"lines": self.done, "failed": self.failed})
            whole.replace(self.path)
            self._partial.unlink(missing_ok=True)
        except OSError as error:
            raise self._stopped(error) from None
        self.is_finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is None:
            return
        if not self.is_finished and not self._partial.stat().st_size:  # nothing to go on from
            self._partial.unlink()
        self._file.close()
        self._file = None

    def _open(self, overwrite: bool) -> None:
        if self.path.exists() and not self.path.is_file():
            raise BatchError(f"{self.path} is not a file: choose another --out")
        if not overwrite and self._is_whole():
            self._partial.unlink(missing_ok=True)
            return
        self._file = self._locked()
        if not overwrite:
            self._keep_whole_lines(self._file)

    def _begin(self) -> None:
        """Before the first line: what is overwritten stays until there is something in its place."""
        if self._has_begun or self._file is None:
            return
        if not self.done:
            self.path.unlink(missing_ok=True)
            self._file.truncate(0)
        self._write_record(None)
        self._has_begun = True

    def _is_whole(self) -> bool:
        """Whether an earlier run finished. Raises BatchError where what is there belongs to another job."""
        is_whole = self.path.exists()
        if not is_whole and not (self._partial.exists() and self._partial.stat().st_size):
            return False
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            theirs = dict(record["job"])
            if is_whole:
                self.done, self.failed = record["finished"]["lines"], record["finished"]["failed"]
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            raise BatchError(
                f"{self.path} exists, and {self._record.name} beside it does not say which batch wrote it: "
                "choose another --out, or replace it with --overwrite"
            ) from None
        differing = [words for key, words in WORDS.items() if theirs.get(key) != self._job.get(key)]
        if differing:
            raise BatchError(
                f"{self.path} was written with {' and '.join(differing)}: choose another --out, or replace it with "
                "--overwrite"
            )
        self.is_finished = is_whole
        return is_whole

    def _locked(self) -> BinaryIO:
        file = self._partial.open("ab+", buffering=0)
        with suppress(ImportError):  # a system without it does not tell of two runs at a time
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise BatchError(f"another process is writing {self.path}: wait for it, or end it") from None
        return file

    def _keep_whole_lines(self, file: BinaryIO) -> None:
        """Count the lines of an earlier run, and drop one that was cut off."""
        whole_bytes = 0
        with self._partial.open("rb") as lines, suppress(ValueError):  # no JSON: what a power cut may leave
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                failed = "error" in json.loads(line)
                whole_bytes += len(line)
                self.done += 1
                self.failed += failed
        file.truncate(whole_bytes)

    def _write_record(self, finished: dict[str, int] | None) -> None:
        temporary = self._record.with_name(f"{self._record.name}.tmp")
        temporary.write_text(json.dumps({"job": self._job, "finished": finished}, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self._record)

    def _stopped(self, error: OSError) -> BatchError:
        return BatchError(
            f"{self.path} cannot be written: {error.strerror or error}; {self._partial.name} keeps the {self.done:,} "
            "lines that are done, and the same command goes on from there"
        )
