"""The second look at a precision: its layers, its cache, its load time and memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.comparison.cache_paths import cache_path_differences
from export.comparison.drift import Drift
from export.comparison.footprint import measure_footprint
from export.comparison.results import Details
from export.probe import GraphProbe, residual_names
from runtime.bundle import Bundle
from runtime.engine.session import DecoderSession

# Enough for several chunks of cache; half of them run one by one.
CACHE_PATH_TOKENS = 64


def measure_details(
    bundle: Bundle,
    session: DecoderSession,
    token_ids: Sequence[int],
    residuals: Sequence[np.ndarray] | None,
    *,
    prompt_tokens: int,
    new_tokens: int,
    threads: int | None,
) -> Details:
    """Look into one precision.

    Args:
        bundle: where its file is.
        session: the file, opened.
        token_ids: a text; its first tokens go every way into the cache, the rest one way alone.
        residuals: the reference's residual stream on it, as `Reference.residuals` gives it.
        prompt_tokens: run by the process whose memory is measured.
        new_tokens: decoded by it.
        threads: that it uses; None for its default.
    """
    path = bundle.model_file(session.precision)
    names = residual_names(path) if residuals is not None else None
    probe = GraphProbe(path, session.shape, names or ())
    drift = None
    if residuals is not None and names is not None and len(names) == len(residuals):
        values = probe.run([token_ids])
        drift = Drift.between(residuals, [values[name][0] for name in names])
    return Details(
        drift=drift,
        cache_paths=cache_path_differences(session, probe, token_ids[:CACHE_PATH_TOKENS]),
        footprint=measure_footprint(
            bundle,
            session.precision,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            threads=threads,
        ),
    )
