"""A graph bound to the buffers of a cache, so that it writes past and present in place.

Knows the contract's names, and nothing of tokens' meaning: what it is given was checked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort

from runtime import contract
from runtime.errors import BundleError


@contextmanager
def one_line_errors(path: Path, doing: str = "fails in") -> Iterator[None]:
    """What onnxruntime raises inside becomes a BundleError of one line that names the file."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - onnxruntime has classes of its own for every fault
        raise _in_one_line(error, path, doing) from None


def _in_one_line(error: Exception, path: Path, doing: str = "fails in") -> BundleError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return BundleError(f"{path} {doing} onnxruntime {ort.__version__}: {reason}")


class GraphClock(Protocol):
    """Whoever wants to know how long the graph ran."""

    graph_seconds: float


class CacheBinding:
    """One graph over the buffers of one cache, for as long as the cache does not move them.

    Any number of new tokens goes through `run`. The step that repeats, one new token for every row, has `step`: there
    every input and output is bound once, and arrays are filled in place. It gives the bits that `run` gives.

    Args:
        session: the graph.
        path: its file, for the message where it fails.
        cache_names: its past input and present output for each buffer.
        buffers: [batch_size, num_key_value_heads, capacity, head_dim] each, in the dtype of the graph's cache.
        vocab_size: of the logits.
        clock: counts the time that the graph takes.

    Raises:
        BundleError: by `run` and `step`, where the graph fails.

    Attributes:
        buffers: the cache's own list, by which its owner sees whether they have moved.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        path: Path,
        cache_names: Sequence[tuple[str, str]],
        buffers: Sequence[np.ndarray],
        vocab_size: int,
        clock: GraphClock,
    ) -> None:
        self.buffers = buffers
        self._clock = clock
        self._session, self._path, self._vocab_size = session, path, vocab_size
        self._past = [
            (past, present, ort.OrtValue.ortvalue_from_numpy(buffer))
            for (past, present), buffer in zip(cache_names, buffers, strict=True)
        ]
        self._any = self._new_binding()
        rows, _, capacity, _ = buffers[0].shape
        self._input_ids = np.zeros((rows, 1), np.int64)
        self._position_ids = np.zeros((rows, 1), np.int64)
        # As wide as the cache, so that its shape never changes: what follows a row's tokens is its right padding.
        self._mask = np.zeros((rows, capacity), np.int64)
        self._logits = np.empty((rows, 1, vocab_size), np.float32)
        self._lengths = np.zeros(rows, np.int64)  # ones in each row of the mask
        self._step = self._new_binding()
        self._bind(self._step, self._input_ids, self._mask, self._position_ids, self._logits)

    def run(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, position_ids: np.ndarray, num_logits_to_keep: int
    ) -> np.ndarray:
        """Logits of the last positions, float32 [batch_size, num_logits_to_keep, vocab_size]; contract's inputs."""
        logits = np.empty((len(input_ids), num_logits_to_keep, self._vocab_size), np.float32)
        self._bind(self._any, input_ids, attention_mask, position_ids, logits)
        self._call(self._any)
        return logits

    def step(self, token_ids: Sequence[int] | np.ndarray, lengths: Sequence[int] | np.ndarray) -> np.ndarray:
        """One more token in every row.

        Args:
            token_ids: [batch_size].
            lengths: [batch_size], tokens that each row holds already.

        Returns:
            The logits, float32 [batch_size, vocab_size]: the next step overwrites them.
        """
        self._input_ids[:, 0] = token_ids
        self._position_ids[:, 0] = lengths
        for row, length in enumerate(lengths):
            if self._lengths[row] != length:  # the row was trimmed, or went on by `run`
                self._mask[row, :length], self._mask[row, length:] = 1, 0
            self._mask[row, length] = 1
            self._lengths[row] = length + 1
        self._call(self._step)
        logits: np.ndarray = self._logits[:, 0]
        return logits

    def _call(self, binding: ort.IOBinding) -> None:
        started = time.perf_counter()
        try:  # a context manager would cost every step a microsecond
            self._session.run_with_iobinding(binding)
        except Exception as error:  # noqa: BLE001 - as above
            raise _in_one_line(error, self._path) from None
        self._clock.graph_seconds += time.perf_counter() - started

    def _new_binding(self) -> ort.IOBinding:
        binding = self._session.io_binding()
        for past, present, value in self._past:
            binding.bind_ortvalue_input(past, value)
            binding.bind_ortvalue_output(present, value)
        return binding

    @staticmethod
    def _bind(
        binding: ort.IOBinding,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        position_ids: np.ndarray,
        logits: np.ndarray,
    ) -> None:
        kept = np.array(logits.shape[1], np.int64)
        for name, array in (
            (contract.INPUT_IDS, input_ids),
            (contract.ATTENTION_MASK, attention_mask),
            (contract.POSITION_IDS, position_ids),
            (contract.NUM_LOGITS_TO_KEEP, kept),
        ):  # not bind_cpu_input: it does not know an input that has a default
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        binding.bind_output(contract.LOGITS, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
