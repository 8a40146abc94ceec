"""One ONNX graph, opened for generation: token ids and a cache in, logits out.

The only file that speaks to onnxruntime. Knows no text and no sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from runtime import contract
from runtime.bundle import Bundle
from runtime.errors import BundleError, OptionError, PromptError
from runtime.kv_cache import KVCache
from runtime.threads import default_threads

ERRORS_ONLY = 3


class DecoderSession:
    """A graph under the contract of `contract.py`, in one precision.

    Args:
        bundle: where the graph is.
        precision: which one.
        threads: of a matrix product; None for `default_threads()`.
        in_place: write the cache in place. None asks the bundle; False copies past into present at every step, as
            graphs of other exporters need: slower, with the same tokens.
        spin: idle threads wait in a busy loop: faster on a machine of one's own, a burden on a shared one.

    Raises:
        OptionError: no such precision, or threads < 1.
        BundleError: the graph cannot be opened, or breaks the contract.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        *,
        threads: int | None = None,
        in_place: bool | None = None,
        spin: bool = True,
    ) -> None:
        self.shape = bundle.shape
        self.precision = precision
        self.threads = default_threads() if threads is None else threads
        if self.threads < 1:
            raise OptionError(f"threads must be at least 1, not {threads}")
        path = bundle.model_file(precision)
        try:
            self._ort = ort.InferenceSession(str(path), _session_options(self.threads, spin), ["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - onnxruntime has classes of its own for every fault
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BundleError(f"{path} cannot be opened by onnxruntime {ort.__version__}: {reason}") from None
        self._check_contract(str(path))
        self.in_place = bundle.has_in_place_cache if in_place is None else in_place
        self._binding: ort.IOBinding | None = None
        self._bound_buffers: list[np.ndarray] = []
        self._ones = np.ones((1, self.shape.max_position_embeddings), np.int64)
        self._positions = np.arange(self.shape.max_position_embeddings, dtype=np.int64)[None]
        self._cache_names = [
            (past, present)
            for layer in range(self.shape.num_hidden_layers)
            for past, present in zip(contract.past_names(layer), contract.present_names(layer), strict=True)
        ]

    def new_cache(self, capacity_tokens: int = 0) -> KVCache:
        """An empty cache with room for so many tokens; it grows when more come."""
        return KVCache(self.shape, capacity_tokens)

    def forward(
        self, token_ids: Sequence[int] | np.ndarray, cache: KVCache, *, num_logits_to_keep: int = 1
    ) -> np.ndarray:
        """Run new tokens after the cached ones, and put them into the cache.

        Args:
            token_ids: the new tokens, at least one.
            cache: grows by them.
            num_logits_to_keep: logits of the last n positions; 0 for all.

        Returns:
            float32 [num_logits_to_keep or len(token_ids), vocab_size].

        Raises:
            PromptError: no tokens, ids outside the vocabulary, or more than the context holds.
        """
        input_ids = np.array(token_ids, np.int64).reshape(1, -1)
        if not input_ids.size:
            raise PromptError("there are no tokens to run")
        if int(input_ids.min()) < 0 or int(input_ids.max()) >= self.shape.vocab_size:
            raise PromptError(f"token ids must lie in 0..{self.shape.vocab_size - 1}")
        total = cache.length + input_ids.shape[1]
        cache.reserve(total)
        feeds = {
            contract.INPUT_IDS: input_ids,
            contract.ATTENTION_MASK: self._ones[:, :total],
            contract.POSITION_IDS: self._positions[:, cache.length : total],
            contract.NUM_LOGITS_TO_KEEP: np.array(num_logits_to_keep, np.int64),
        }
        logits = self._run_in_place(feeds, cache) if self.in_place else self._run_growing(feeds, cache)
        cache.length = total
        return logits

    def _run_in_place(self, feeds: dict[str, np.ndarray], cache: KVCache) -> np.ndarray:
        binding = self._bind_cache(cache)
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        sequence = feeds[contract.INPUT_IDS].shape[1]
        kept = min(int(feeds[contract.NUM_LOGITS_TO_KEEP]) or sequence, sequence)
        logits: np.ndarray = np.empty((1, kept, self.shape.vocab_size), np.float32)
        binding.bind_output(contract.LOGITS, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self._ort.run_with_iobinding(binding)
        result: np.ndarray = logits[0]
        return result

    def _bind_cache(self, cache: KVCache) -> ort.IOBinding:
        """Past and present of every layer on one buffer; done again only when the buffers are other ones."""
        if self._binding is None or self._bound_buffers is not cache.buffers:
            binding = self._ort.io_binding()
            for (past, present), buffer in zip(self._cache_names, cache.buffers, strict=True):
                value = ort.OrtValue.ortvalue_from_numpy(buffer)
                binding.bind_ortvalue_input(past, value)
                binding.bind_ortvalue_output(present, value)
            self._binding, self._bound_buffers = binding, cache.buffers
        return self._binding

    def _run_growing(self, feeds: dict[str, np.ndarray], cache: KVCache) -> np.ndarray:
        """The plain twin: past goes in by value, present comes out longer and is copied back."""
        past = {
            name: np.ascontiguousarray(buffer[:, :, : cache.length])
            for (name, _), buffer in zip(self._cache_names, cache.buffers, strict=True)
        }
        names = [contract.LOGITS, *(present for _, present in self._cache_names)]
        logits, *presents = self._ort.run(names, {**feeds, **past})
        for buffer, present in zip(cache.buffers, presents, strict=True):
            buffer[:, :, : present.shape[2]] = present
        result: np.ndarray = logits[0]
        return result

    def _check_contract(self, path: str) -> None:
        past = [name for layer in range(self.shape.num_hidden_layers) for name in contract.past_names(layer)]
        required = {contract.INPUT_IDS, contract.ATTENTION_MASK, contract.POSITION_IDS, contract.NUM_LOGITS_TO_KEEP}
        inputs: dict[str, Any] = {node.name: node.shape for node in self._ort.get_inputs()}
        missing, extra = sorted({*required, *past} - inputs.keys()), sorted(inputs.keys() - {*required, *past})
        if missing or extra:
            raise BundleError(f"{path} breaks the graph contract: missing inputs {missing}, unknown inputs {extra}")
        found = tuple(inputs[past[0]][1::2])
        if found != (self.shape.num_key_value_heads, self.shape.head_dim):
            raise BundleError(f"{path} and config.json disagree on (num_key_value_heads, head_dim): {found}")


def _session_options(threads: int, spin: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    options.enable_mem_pattern = False  # shapes change at every step: a pattern would be planned and thrown away
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    return options
