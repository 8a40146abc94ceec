"""A text's windows through the reference and every precision, several windows at a time.

A window is worked on by one thread from its passes to its figures. Threads that share the products of one window wait
for each other at every one of them: PyTorch's in busy loops, which double its work, and on a machine with other work
far more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from export.comparison.predictions import Predictions
from export.comparison.reference import Reference
from runtime.engine.session import DecoderSession
from runtime.engine.threads import default_threads
from runtime.evaluation.logits import Logits
from runtime.progress import progress_bar

# Of logits that may be in memory at once: a window's of the reference, and of one precision.
LOGIT_BYTES = 1e9


@dataclass(frozen=True)
class Workers:
    """How the machine's threads are shared: `count` windows at a time, `threads` of a product in each."""

    count: int
    threads: int

    @classmethod
    def of(cls, windows: Sequence[Sequence[int]], vocab_size: int, threads: int | None) -> Workers:
        """As many windows at a time as there are threads, unless memory or the text has no room for them."""
        threads = default_threads() if threads is None else threads
        window_bytes = 2 * 4 * vocab_size * max(map(len, windows))
        count = max(1, min(threads, len(windows), int(LOGIT_BYTES // window_bytes)))
        return cls(count, threads // count)


def predict(
    reference: Reference,
    sessions: Mapping[str, DecoderSession],
    windows: Sequence[list[int]],
    workers: Workers,
    *,
    progress: bool,
) -> tuple[Predictions, dict[str, Predictions]]:
    """Predict every token of each window but its first.

    Args:
        reference: runs each window once.
        sessions: by name of the precision, opened for `workers.threads` threads.
        windows: of the text, in order.
        workers: how many at a time.
        progress: show how far it is, on stderr.

    Returns:
        The reference's predictions, and each precision's.
    """

    def one_window(window: list[int]) -> tuple[Predictions, dict[str, Predictions]]:
        targets, own = np.array(window[1:]), Predictions()
        expected = Logits(reference.logits(window)[:-1], threads=workers.threads)
        own.add(expected, targets)
        found = {name: Predictions() for name in sessions}
        for name, session in sessions.items():
            logits = session.forward(window, session.new_cache(len(window)), num_logits_to_keep=0)[:-1]
            found[name].add(Logits(logits, threads=workers.threads), targets, expected)
        return own, found

    own, found = Predictions(), {name: Predictions() for name in sessions}
    pool = ThreadPoolExecutor(workers.count)
    try:
        with reference.using_threads(workers.threads):
            results = pool.map(one_window, windows)
            for window_own, window_found in progress_bar(
                results, description="compare", unit="windows", total=len(windows), show=progress
            ):
                own.merge(window_own)
                for name, predictions in window_found.items():
                    found[name].merge(predictions)
    finally:
        pool.shutdown(cancel_futures=True)
    return own, found
