"""One ONNX graph, opened for generation: token ids and a cache in, logits out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnxruntime as ort

from runtime import contract
from runtime.bundle import Bundle
from runtime.engine.binding import CacheBinding, one_line_errors
from runtime.engine.chunks import ATTENTION_BLOCK, ChunkRule
from runtime.engine.exact_products import exact_product_options
from runtime.engine.huge_pages import HugePages
from runtime.engine.kv_cache import KVCache
from runtime.engine.threads import default_threads
from runtime.engine.weight_pages import release_weight_pages
from runtime.errors import BundleError, OptionError, PromptError
from runtime.precisions import INT8_CACHE_SUFFIX, PRECISIONS, batch_invariant_names

DEFAULT_CHUNK_TOKENS = 256
SILENT = 4  # what goes wrong is raised, in one line; onnxruntime would print it in several as well


class DecoderSession:
    """A graph under the contract of `contract.py`, in one precision.

    Args:
        bundle: where the graph is.
        precision: which one.
        threads: of a matrix product; None for `default_threads()`.
        in_place: write the cache in place. None asks the bundle; False copies past into present at every step, as
            graphs of other exporters need: slower, with the same tokens.
        spin: idle threads wait in a busy loop: faster on a machine of one's own, a burden on a shared one.
        chunk_tokens: a longer prompt runs in chunks of this size.
        batch_invariant: make logits the same bits however tokens are grouped into passes: one by one, in chunks, after
            a reused prefix, or guessed. Attention over one row rounds otherwise than over several, so such a session
            never runs a row alone, but together with the one before it. Steps cost a tenth more, and a third at a
            depth of 1,000 (docs/decisions/0012). int8-kv8 is batch-invariant by itself, at no price; q8 cannot be.

    Attributes:
        cache_dtype: float32, or int8.
        stop_token_ids: of the model: where a text ends unless its request says otherwise.
        batch_invariant: whether logits are the same bits however tokens are grouped, by itself or as asked for.
        chunks: how prompts are cut into passes.
        graph_seconds: spent inside onnxruntime so far; the rest of a step is Python's and NumPy's.

    Raises:
        OptionError: no such precision, threads or chunk_tokens < 1, or q8 that is to be batch-invariant.
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
        chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
        batch_invariant: bool = False,
    ) -> None:
        path = bundle.model_file(precision)
        self._row = PRECISIONS[precision]
        self.shape = bundle.shape
        self.stop_token_ids = bundle.eos_token_ids
        self.precision = precision
        self.threads = default_threads() if threads is None else threads
        if self.threads < 1:
            raise OptionError(f"threads must be at least 1, not {threads}")
        if batch_invariant and not self._row.can_be_batch_invariant:
            raise OptionError(
                f"{precision} cannot be batch-invariant: it scales activations over all tokens of a pass; "
                "take int8 or q4"
            )
        if chunk_tokens < 1:
            raise OptionError(f"chunk_tokens must be at least 1, not {chunk_tokens}")
        self.batch_invariant = batch_invariant or self._row.batch_invariant
        self._never_single = self.batch_invariant and not self._row.batch_invariant
        if self._never_single and chunk_tokens % ATTENTION_BLOCK:
            raise OptionError(f"a batch-invariant session's chunk_tokens must be a multiple of {ATTENTION_BLOCK}")
        self.chunks = ChunkRule(
            chunk_tokens,
            query_block=2 * self.shape.head_dim,  # where a core's cache of level 2 is half a megabyte or more
            never_single=self._never_single,
            is_divisible=self._row.can_be_batch_invariant,
        )
        with HugePages(bundle.file_bytes(precision)) as self._huge_pages, one_line_errors(path, "cannot be opened by"):
            self._ort = ort.InferenceSession(str(path), _session_options(self.threads, spin), ["CPUExecutionProvider"])
        release_weight_pages(path.parent)
        self._huge_pages.take_later()
        self._path = path
        self.graph_seconds = 0.0
        self.cache_dtype = self._check_contract()
        self.in_place = bundle.has_in_place_cache if in_place is None else in_place
        self._cache_names = [
            (past, present)
            for layer in range(self.shape.num_hidden_layers)
            for past, present in zip(contract.past_names(layer), contract.present_names(layer), strict=True)
        ]
        # Each cache that takes turns on this session stays bound, until it moves its buffers or is gone.
        self._bindings: WeakKeyDictionary[KVCache, CacheBinding] = WeakKeyDictionary()

    def __repr__(self) -> str:
        """The graph's file and the precision."""
        return f"DecoderSession({str(self._path)!r}, precision={self.precision!r}, threads={self.threads})"

    def take_huge_pages(self) -> None:
        """Do now what otherwise comes in the background after some seconds, so that all that is timed is alike."""
        self._huge_pages.take()

    def new_cache(self, capacity_tokens: int = 0) -> KVCache:
        """An empty cache with room for `capacity_tokens`; it grows when more come."""
        return KVCache(self.shape, capacity_tokens, self.cache_dtype)

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        shape = self.shape
        numbers = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
        return numbers * np.dtype(self.cache_dtype).itemsize

    @property
    def decodes_rows_together(self) -> bool:
        """Whether several sequences can take their steps in one pass."""
        return self.in_place and not self._never_single

    @property
    def has_independent_rows(self) -> bool:
        """Whether a sequence has the same logits, to the bit, whatever others share its passes."""
        return self._row.independent_rows

    def check_prompt_lookup(self) -> None:
        """Raise OptionError where checking several guesses in a pass could change what is generated."""
        if self.batch_invariant or self._row.rounding_is_harmless:
            return
        others = " or ".join(batch_invariant_names())
        raise OptionError(
            f"prompt lookup could change tokens in {self.precision}, which rounds several in a pass otherwise than "
            f"one: choose the precision {others} (`export run --precisions {others}` makes it), or int8 with "
            "`batch_invariant` (--batch-invariant), which costs a tenth of the speed or more"
        )

    def check_cache(self, cache: KVCache) -> None:
        """Raise OptionError where a cache has another dtype than this graph's."""
        if cache.dtype is not self.cache_dtype:
            theirs, ours = np.dtype(cache.dtype).name, np.dtype(self.cache_dtype).name
            raise OptionError(
                f"{self.precision} has a KV cache of {ours} and cannot go on with one of {theirs}: of two precisions, "
                f"both or neither must end in {INT8_CACHE_SUFFIX}"
            )

    def check_token_ids(self, token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The ids as int64 [1, len(token_ids)]. Raises PromptError where there are none, or one is no token's."""
        ids = np.asarray(token_ids)  # numbers beyond 64 bits, and what is no number, get a dtype that is no integer's
        if not ids.size:
            raise PromptError("there are no tokens to run")
        if ids.dtype.kind not in "iu" or int(ids.min()) < 0 or int(ids.max()) >= self.shape.vocab_size:
            raise PromptError(f"token ids must be integers in 0..{self.shape.vocab_size - 1}")
        return ids.astype(np.int64).reshape(1, -1)

    def forward(
        self, token_ids: Sequence[int] | np.ndarray, cache: KVCache, *, num_logits_to_keep: int = 1
    ) -> np.ndarray:
        """Run new tokens after the cached ones, and put them into the cache.

        Many tokens run in chunks of `chunk_tokens`, so that the activations in memory do not grow with the prompt.

        Args:
            token_ids: the new tokens, at least one.
            cache: grows by them. It may come from another session of the same bundle with the same `cache_dtype`.
            num_logits_to_keep: logits of the last n positions; 0 for all.

        Returns:
            float32 [num_logits_to_keep or len(token_ids), vocab_size].

        Raises:
            PromptError: no tokens, ids outside the vocabulary, or more than the context holds.
            OptionError: a cache of another dtype.
            BundleError: the graph fails, which is how a graph that contradicts config.json shows.
        """
        self.check_cache(cache)
        if len(token_ids) == 1 and self._is_token_id(token_ids[0]):
            if self._never_single and cache.length:
                return self._decode_in_company(int(token_ids[0]), cache)
            if self.in_place:
                return self._decode(int(token_ids[0]), cache)
        input_ids = self.check_token_ids(token_ids)
        held, tokens = cache.length, input_ids.shape[1]
        cache.reserve(held + tokens)
        dropped = tokens - min(num_logits_to_keep or tokens, tokens)  # positions whose logits nobody asked for
        logits = []
        try:
            for start, end in self.chunks.pairs(tokens):
                chunk = input_ids[:, start:end]
                kept = max(0, end - max(start, dropped))
                # The graph gives one row at least.
                logits.append(self._run_chunk(chunk, cache, max(1, kept))[:kept])
                cache.add(chunk[0].tolist())
        except BundleError:
            cache.trim(held)
            raise
        return logits[-1] if len(logits[-1]) == tokens - dropped else np.concatenate(logits)

    def bind(self, buffers: Sequence[np.ndarray]) -> CacheBinding:
        """This graph over buffers [batch_size, num_key_value_heads, capacity, head_dim], written in place."""
        return CacheBinding(self._ort, self._path, self._cache_names, buffers, self.shape.vocab_size, self)

    def unbind(self, cache: KVCache) -> None:
        """Let go of the memory that a cache has left."""
        self._bindings.pop(cache, None)

    def _decode(self, token_id: int, cache: KVCache) -> np.ndarray:
        """`forward` of one token: everything is bound already, so that it costs Python microseconds."""
        cache.reserve(cache.length + 1)
        logits = self._binding(cache).step((token_id,), (cache.length,))
        cache.add((token_id,))
        return logits.copy()  # 10 us at a vocabulary of 49,152, for logits that are the caller's to keep

    def _decode_in_company(self, token_id: int, cache: KVCache) -> np.ndarray:
        """`forward` of one token and the one before it, whose rows are written again with the same bits."""
        cache.reserve(cache.length + 1)
        before = cache.token_ids[-1]
        cache.trim(cache.length - 1)
        try:
            return self.forward((before, token_id), cache)
        except BundleError:
            cache.add((before,))
            raise

    def _is_token_id(self, token_id: object) -> bool:
        return isinstance(token_id, (int, np.integer)) and 0 <= int(token_id) < self.shape.vocab_size

    def _run_chunk(self, input_ids: np.ndarray, cache: KVCache, num_logits_to_keep: int) -> np.ndarray:
        total = cache.length + input_ids.shape[1]
        attention_mask = np.ones((1, total), np.int64)
        position_ids = np.arange(cache.length, total, dtype=np.int64)[None]
        if self.in_place:
            run = self._binding(cache).run
            logits: np.ndarray = run(input_ids, attention_mask, position_ids, num_logits_to_keep)[0]
            return logits
        feeds = {
            contract.INPUT_IDS: input_ids,
            contract.ATTENTION_MASK: attention_mask,
            contract.POSITION_IDS: position_ids,
            contract.NUM_LOGITS_TO_KEEP: np.array(num_logits_to_keep, np.int64),
        }
        return self._run_growing(feeds, cache)

    def _binding(self, cache: KVCache) -> CacheBinding:
        binding = self._bindings.get(cache)
        if binding is None or binding.buffers is not cache.buffers:
            binding = self._bindings[cache] = self.bind(cache.buffers)
        return binding

    def _run_growing(self, feeds: dict[str, np.ndarray], cache: KVCache) -> np.ndarray:
        """The plain twin: past goes in by value, present comes out longer and is copied back."""
        past = {
            name: np.ascontiguousarray(buffer[:, :, : cache.length])
            for (name, _), buffer in zip(self._cache_names, cache.buffers, strict=True)
        }
        names = [contract.LOGITS, *(present for _, present in self._cache_names)]
        started = time.perf_counter()
        with one_line_errors(self._path):
            logits, *presents = self._ort.run(names, {**feeds, **past})
        self.graph_seconds += time.perf_counter() - started
        for buffer, present in zip(cache.buffers, presents, strict=True):
            buffer[:, :, : present.shape[2]] = present
        result: np.ndarray = logits[0]
        return result

    def _check_contract(self) -> contract.CacheDtype:
        """Raise BundleError unless the graph keeps the contract. Returns the dtype of its cache."""
        layers = range(self.shape.num_hidden_layers)
        past = [name for layer in layers for name in contract.past_names(layer)]
        present = [name for layer in layers for name in contract.present_names(layer)]
        required = {*past, contract.INPUT_IDS, contract.ATTENTION_MASK, contract.POSITION_IDS}
        required.add(contract.NUM_LOGITS_TO_KEEP)
        nodes = [*self._ort.get_inputs(), *self._ort.get_overridable_initializers()]
        inputs: dict[str, Any] = {node.name: node.shape for node in nodes}
        outputs: dict[str, Any] = {node.name: node.shape for node in self._ort.get_outputs()}
        for kind, names in (
            ("missing inputs", required - inputs.keys()),
            ("unknown inputs", inputs.keys() - required),
            ("missing outputs", {contract.LOGITS, *present} - outputs.keys()),
        ):
            if names:
                raise BundleError(f"{self._path} breaks the graph contract: {kind} {', '.join(sorted(names))}")
        for name, found, expected in (
            ("num_key_value_heads", inputs[past[0]][1], self.shape.num_key_value_heads),
            ("head_dim", inputs[past[0]][3], self.shape.head_dim),
            ("vocab_size", outputs[contract.LOGITS][-1], self.shape.vocab_size),
        ):
            if isinstance(found, int) and found != expected:  # a symbolic axis is a string
                raise BundleError(f"{self._path} and config.json disagree on {name}: {found} and {expected}")
        stored = next(node.type for node in nodes if node.name == past[0])
        if stored not in contract.CACHE_DTYPES:
            raise BundleError(f"{self._path} has a cache of {stored}; there are {', '.join(contract.CACHE_DTYPES)}")
        return contract.CACHE_DTYPES[stored]


def _session_options(threads: int, spin: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    options.enable_mem_pattern = False  # shapes change at every step: a pattern would be planned and thrown away
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    for entry in exact_product_options().items():
        options.add_session_config_entry(*entry)
    # A portable graph multiplies dequantized weights as floats; fused as usual, its activations would be quantized.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return options
