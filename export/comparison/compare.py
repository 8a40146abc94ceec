"""Is the exported model the model? A reference against each ONNX file of a bundle, number by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from export.comparison.details import measure_details
from export.comparison.greedy import Continuation
from export.comparison.outliers import Outliers
from export.comparison.predict import Workers, predict
from export.comparison.predictions import Predictions
from export.comparison.reference import Reference, SessionReference
from export.comparison.results import QUANTILES, Comparison, Details, PrecisionFigures, ReferenceFigures
from export.comparison.sampled_text import sample_tokens
from export.comparison.token_losses import measure_token_losses, token_texts
from export.errors import ExportError
from runtime.bundle import Bundle
from runtime.engine.session import DecoderSession
from runtime.evaluation.bench import bench
from runtime.evaluation.interval import mean_interval
from runtime.evaluation.nll import NllAccumulator
from runtime.evaluation.windows import document_windows
from runtime.progress import progress_bar

DEFAULT_WINDOW = 512
PROMPT_TOKENS, CONTINUED_TOKENS = 16, 64
BENCH_PROMPT_TOKENS, BENCH_NEW_TOKENS, BENCH_REPEATS = 128, 32, 3
# Of the text's first tokens, for the look inside: enough for a mean over tokens.
DETAIL_TOKENS = 256
# Files that are opened together; onnxruntime takes up to twice their size for it.
OPENED_BYTES = 4e9


def compare(
    bundle: Bundle,
    reference: Reference | None = None,
    *,
    token_ids: Sequence[int] | None = None,
    text: str = "samples of the model's own",
    window: int = DEFAULT_WINDOW,
    threads: int | None = None,
    details: bool = False,
    progress: bool = True,
) -> Comparison:
    """Compare every precision of a bundle with what it should be.

    Args:
        bundle: an opened bundle.
        reference: the model that it came from; None for the bundle's fp32 graph, or else its largest one.
        token_ids: the text to predict; None draws one from the model itself, which suits any model.
        text: a name for it.
        window: longest context, cut to the model's.
        threads: for onnxruntime; None for its default.
        details: also drift by layer, cache paths, load time and memory: some seconds more for each precision.
        progress: show how far it is, on stderr.

    Raises:
        ExportError: too short a text, or another model's bundle.
    """
    if window < 2:
        raise ExportError(f"a window of {window} tokens predicts nothing; take at least 2")
    context = bundle.shape.max_position_embeddings
    groups = _groups(bundle)
    if token_ids is None:
        token_ids = sample_tokens(bundle, DecoderSession(bundle, groups[0][0], threads=threads), progress=progress)
    if len(token_ids) <= PROMPT_TOKENS:
        raise ExportError(f"the text has {len(token_ids)} tokens; comparing needs more than {PROMPT_TOKENS}")
    window = min(window, context)
    windows = list(document_windows(token_ids, window, bundle.bos_token_id))
    workers = Workers.of(windows, bundle.shape.vocab_size, threads)
    sessions = _open(bundle, groups[0], workers)
    reference = reference or _best_of(bundle, sessions)
    if reference.vocab_size != bundle.shape.vocab_size:
        raise ExportError(f"{bundle.folder} and the checkpoint have different vocabularies: they are not one model")
    prompt = list(token_ids[:PROMPT_TOKENS])
    with reference.using_threads(workers.threads):
        continuation = Continuation.of(reference, prompt, min(CONTINUED_TOKENS, context - len(prompt)))
    predicted: dict[str, Predictions] = {}
    looked: dict[str, Details] = {}
    inside = Inside.of(bundle, reference, token_ids) if details else None
    for group in groups:
        sessions = sessions or _open(bundle, group, workers)
        own, found = predict(reference, sessions, windows, workers, progress=progress)
        predicted |= found
        if inside is not None:
            looked |= _look_inside(bundle, inside, sessions, threads, progress)
            text_of = token_texts(bundle)
            looked |= {
                name: replace(looked[name], token_losses=measure_token_losses(windows, own, found[name], text_of))
                for name in group
            }
        sessions = {}
    figures = {}
    # Speed is measured one by one, with nothing else in memory.
    for name in progress_bar(
        [name for group in groups for name in group], description="speed", unit="precisions", show=progress
    ):
        session = DecoderSession(bundle, name, threads=threads)
        figures[name] = _figures(bundle, session, predicted[name], own.nll, continuation, looked.get(name))
    interval = _perplexity_interval(own.nll.token_nats)
    reference_figures = ReferenceFigures(reference.name, own.nll.perplexity, interval, own.nll.mean_nats)
    outliers = inside and inside.outliers
    return Comparison(text, own.nll.tokens, window, len(continuation.token_ids), reference_figures, figures, outliers)


def _groups(bundle: Bundle) -> list[list[str]]:
    """The precisions, the largest file first, in groups that are opened together.

    A group costs one pass of the reference; more than one only where the files are large.
    """
    groups: list[list[str]] = []
    opened = 0
    for name in sorted(bundle.precisions, key=lambda name: -bundle.file_bytes(name)):
        opened += bundle.file_bytes(name)
        if not groups or opened > OPENED_BYTES:
            groups.append([])
            opened = bundle.file_bytes(name)
        groups[-1].append(name)
    return groups


def _open(bundle: Bundle, names: Sequence[str], workers: Workers) -> dict[str, DecoderSession]:
    # Threads that spin between calls would take the reference's time, and each other's.
    return {name: DecoderSession(bundle, name, threads=workers.threads, spin=False) for name in names}


def _best_of(bundle: Bundle, sessions: dict[str, DecoderSession]) -> SessionReference:
    name = "fp32" if "fp32" in sessions else next(iter(sessions))
    return SessionReference(sessions[name], bundle.model_file(name))


@dataclass(frozen=True)
class Inside:
    """The residual stream of the reference on the text's first tokens; None where it cannot be seen."""

    token_ids: list[int]
    residuals: list[np.ndarray] | None

    @classmethod
    def of(cls, bundle: Bundle, reference: Reference, token_ids: Sequence[int]) -> Inside:
        """Run the reference."""
        token_ids = list(token_ids[: min(DETAIL_TOKENS, bundle.shape.max_position_embeddings // 2)])
        return cls(token_ids, reference.residuals(token_ids))

    @property
    def outliers(self) -> Outliers | None:
        """Of the stream."""
        return None if self.residuals is None else Outliers.of(self.residuals, self.token_ids)


def _look_inside(
    bundle: Bundle, inside: Inside, sessions: dict[str, DecoderSession], threads: int | None, progress: bool
) -> dict[str, Details]:
    prompt_tokens, new_tokens = _bench_tokens(bundle)
    sizes = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
    return {
        name: measure_details(bundle, session, inside.token_ids, inside.residuals, **sizes, threads=threads)
        for name, session in progress_bar(
            sessions.items(), description="details", unit="precisions", show=progress, total=len(sessions)
        )
    }


def _figures(
    bundle: Bundle,
    session: DecoderSession,
    predicted: Predictions,
    own: NllAccumulator,
    continuation: Continuation,
    details: Details | None,
) -> PrecisionFigures:
    """What was counted, and what remains to be measured: the greedy continuation and the speed."""
    nll, divergence = predicted.nll, predicted.divergence
    left = continuation.divergence(session)
    prompt_tokens, new_tokens = _bench_tokens(bundle)
    row = bench(session, prompt_tokens=prompt_tokens, new_tokens=new_tokens, repeats=BENCH_REPEATS)
    change = mean_interval(nll.token_nats - own.token_nats)
    return PrecisionFigures(
        kl=divergence.kl,
        reverse_kl=divergence.reverse_kl,
        top1_agreement=divergence.top1_agreement,
        top5_agreement=divergence.top5_agreement,
        perplexity=nll.perplexity,
        perplexity_interval=_perplexity_interval(nll.token_nats),
        perplexity_change=nll.perplexity / own.perplexity - 1,
        perplexity_change_interval=change and (float(np.expm1(change[0])), float(np.expm1(change[1]))),
        max_abs_logit_difference=divergence.max_absolute,
        mean_abs_logit_difference=divergence.mean_absolute,
        max_relative_logit_difference=divergence.max_absolute / divergence.largest_logit,
        logit_difference_quantiles={str(share): divergence.quantile(share) for share in QUANTILES},
        first_divergence=left and left.step,
        first_divergence_margin=left and left.margin,
        first_divergence_tokens=left and (left.expected, left.found),
        int8_weight_fraction=bundle.manifest.get("precisions", {})
        .get(session.precision, {})
        .get("int8_weight_fraction"),
        file_bytes=bundle.file_bytes(session.precision),
        prefill_tokens_per_second=row.prefill_tokens_per_second,
        decode_tokens_per_second=row.decode_tokens_per_second,
        details=details,
    )


def _perplexity_interval(token_nats: np.ndarray) -> tuple[float, float] | None:
    ends = mean_interval(token_nats)
    return ends and (float(np.exp(ends[0])), float(np.exp(ends[1])))


def _bench_tokens(bundle: Bundle) -> tuple[int, int]:
    """Prompt and new tokens of a speed measurement: lengths that fit a small context too."""
    room = bundle.shape.max_position_embeddings
    new_tokens = min(BENCH_NEW_TOKENS, room // 4)
    return min(BENCH_PROMPT_TOKENS, room - new_tokens), new_tokens
