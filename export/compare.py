"""Is the exported model the model? PyTorch in float32 against each ONNX file of a bundle, number by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from export.errors import ExportError
from model import TransformerModel
from runtime.bench import BenchRow, bench
from runtime.bundle import Bundle
from runtime.evaluate import Divergence, Prediction, windows
from runtime.generate import generate_step
from runtime.sampling import make_sampler
from runtime.sampling_options import SamplingOptions
from runtime.session import DecoderSession

DEFAULT_WINDOW = 512
SAMPLED_TOKENS = 512
PROMPT_TOKENS, CONTINUED_TOKENS = 16, 64
BENCH_PROMPT_TOKENS, BENCH_NEW_TOKENS, BENCH_REPEATS = 128, 32, 3


@dataclass(frozen=True)
class PrecisionFigures:
    """One ONNX file against PyTorch. Differences are of logits, KL is in nats."""

    kl: float
    top1_agreement: float
    perplexity: float
    max_abs_logit_difference: float
    mean_abs_logit_difference: float
    max_relative_logit_difference: float  # the largest difference over the largest reference logit
    first_divergence: int | None  # greedy tokens that agree before the first that differs; None: all of them
    int8_weight_fraction: float | None
    file_bytes: int
    prefill_tokens_per_second: float
    decode_tokens_per_second: float


@dataclass(frozen=True)
class Comparison:
    """The figures of a bundle.

    Attributes:
        text: where the tokens came from.
        tokens: how many were predicted.
        window: tokens of context, at most.
        reference: PyTorch's own figures.
        precisions: by name.
    """

    text: str
    tokens: int
    window: int
    continued_tokens: int
    reference: dict[str, float]
    precisions: dict[str, PrecisionFigures]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare(
    bundle: Bundle,
    model: TransformerModel,
    *,
    token_ids: Sequence[int] | None = None,
    text: str = "samples of the model's own",
    window: int = DEFAULT_WINDOW,
    threads: int | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare every precision of a bundle with the PyTorch model that it came from.

    Args:
        bundle: an opened bundle.
        model: float32, in eval mode.
        token_ids: the text to predict; None draws one from the model itself, which suits any model.
        text: a name for it.
        window: longest context, cut to the model's.
        threads: for onnxruntime; None for its default.
        progress: show a bar on stderr if that is a terminal.

    Raises:
        ExportError: too short a text, or another model's bundle.
    """
    if model.config.vocab_size != bundle.shape.vocab_size:
        raise ExportError(f"{bundle.folder} and the checkpoint have different vocabularies: they are not one model")
    if window < 2:
        raise ExportError(f"a window of {window} tokens predicts nothing; take at least 2")
    names = sorted(bundle.precisions, key=lambda name: -_file_bytes(bundle, name))
    sessions = {name: DecoderSession(bundle, name, threads=threads) for name in names}
    if token_ids is None:
        token_ids = sample_tokens(bundle, next(iter(sessions.values())), progress)
    window = min(window, bundle.shape.max_position_embeddings)
    if len(token_ids) <= PROMPT_TOKENS:
        raise ExportError(f"the text has {len(token_ids)} tokens; comparing needs more than {PROMPT_TOKENS}")
    reference, predictions, divergences = _predict(model, sessions, token_ids, window, progress)
    prompt = list(token_ids[:PROMPT_TOKENS])
    continued = min(CONTINUED_TOKENS, bundle.shape.max_position_embeddings - len(prompt))
    expected = model.generate(torch.tensor(prompt), max_new_tokens=continued)
    figures = {
        name: _figures(bundle, session, divergences[name], predictions[name], prompt, expected)
        for name, session in sessions.items()
    }
    own = {"perplexity": reference.perplexity, "mean_nats": reference.mean_nats}
    return Comparison(text, reference.tokens, window, continued, own, figures)


def _figures(
    bundle: Bundle,
    session: DecoderSession,
    divergence: Divergence,
    prediction: Prediction,
    prompt: list[int],
    expected: list[int],
) -> PrecisionFigures:
    """What was counted, and what remains to be measured: the greedy continuation and the speed."""
    row = _speed(session)
    described = bundle.manifest.get("precisions", {}).get(session.precision, {})
    return PrecisionFigures(
        kl=divergence.kl,
        top1_agreement=divergence.top1_agreement,
        perplexity=prediction.perplexity,
        max_abs_logit_difference=divergence.max_absolute,
        mean_abs_logit_difference=divergence.mean_absolute,
        max_relative_logit_difference=divergence.max_absolute / divergence.largest_logit,
        first_divergence=_first_divergence(session, prompt, expected),
        int8_weight_fraction=described.get("int8_weight_fraction"),
        file_bytes=_file_bytes(bundle, session.precision),
        prefill_tokens_per_second=row.prefill_tokens_per_second,
        decode_tokens_per_second=row.decode_tokens_per_second,
    )


def sample_tokens(bundle: Bundle, session: DecoderSession, progress: bool) -> list[int]:
    """A text that the model itself writes, at temperature 1 from its BOS token: in its own distribution by design."""
    sampler = make_sampler(SamplingOptions(temperature=1, top_p=1, seed=0))
    start = bundle.bos_token_id if bundle.bos_token_id is not None else 0
    length = min(SAMPLED_TOKENS, bundle.shape.max_position_embeddings) - 1
    steps = generate_step(session, [start], max_new_tokens=length, sampler=sampler)
    return [
        start,
        *tqdm(steps, total=length, desc="sample", unit="token", disable=None if progress else True, leave=False),
    ]


def _predict(
    model: TransformerModel,
    sessions: dict[str, DecoderSession],
    token_ids: Sequence[int],
    window: int,
    progress: bool,
) -> tuple[Prediction, dict[str, Prediction], dict[str, Divergence]]:
    """Run all windows through PyTorch and every session."""
    reference = Prediction()
    predictions = {name: Prediction() for name in sessions}
    divergences = {name: Divergence() for name in sessions}
    parts = list(windows(token_ids, window))
    for part in tqdm(parts, desc="compare", unit="window", disable=None if progress else True, leave=False):
        targets = np.array(part[1:])
        with torch.inference_mode():
            expected = model(torch.tensor([part]))[0, :-1].numpy()
        reference.add(expected, targets)
        for name, session in sessions.items():
            logits = session.forward(part, session.new_cache(len(part)), num_logits_to_keep=0)[:-1]
            predictions[name].add(logits, targets)
            divergences[name].add(expected, logits)
    return reference, predictions, divergences


def _first_divergence(session: DecoderSession, prompt: list[int], expected: list[int]) -> int | None:
    found = generate_step(session, prompt, max_new_tokens=len(expected))
    return next((step for step, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b), None)


def _speed(session: DecoderSession) -> BenchRow:
    """Prefill and decode, of lengths that fit a small context too."""
    room = session.shape.max_position_embeddings
    new_tokens = min(BENCH_NEW_TOKENS, room // 4)
    prompt_tokens = min(BENCH_PROMPT_TOKENS, room - new_tokens)
    return bench(session, prompt_tokens=prompt_tokens, new_tokens=new_tokens, repeats=BENCH_REPEATS)


def _file_bytes(bundle: Bundle, precision: str) -> int:
    path = bundle.model_file(precision)
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
