"""How fast this machine reads memory: the floor under every decode step, which reads all weights and the cache once."""

from __future__ import annotations

import statistics
import threading
import time

import numpy as np

# Larger than the last-level caches of the CPUs that a small model runs on.
READ_BYTES = 256 * 2**20
REPEATS = 3


def read_bandwidth(threads: int, *, read_bytes: int = READ_BYTES, repeats: int = REPEATS) -> float:
    """Bytes per second that a number of threads read together; the median of some rounds.

    Each thread takes the maximum of its own part of an array larger than the caches. NumPy does that with vector
    instructions and without Python's lock, as fast as memory delivers.
    """
    array = np.ones(read_bytes // 8, np.int64)  # written, so that every page is its own
    parts = np.array_split(array, threads)
    seconds = []
    for _ in range(repeats + 1):
        workers = [threading.Thread(target=part.max) for part in parts]
        started = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds.append(time.perf_counter() - started)
    return array.nbytes / statistics.median(seconds[1:])
