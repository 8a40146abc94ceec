"""A text to compare on where none is given: documents that the model itself writes."""

from __future__ import annotations

from runtime.bundle import Bundle
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import FinishReason, Request, Sequence
from runtime.engine.session import DecoderSession
from runtime.progress import progress_bar
from runtime.sampling.logprobs import SampledToken
from runtime.sampling.options import SamplingOptions
from runtime.sampling.sampler import make_sampler

SAMPLED_TOKENS = 2048
LONGEST_DOCUMENT = 256
# Documents that are written at once: a step reads the weights once for all of them.
ROWS = 8


def sample_tokens(bundle: Bundle, session: DecoderSession, *, progress: bool) -> list[int]:
    """Documents drawn at temperature 1 from the BOS token, one after another: the model's own distribution by design.

    Args:
        bundle: of the model.
        session: writes them.
        progress: show how far it is, on stderr.

    Returns:
        About `SAMPLED_TOKENS` token ids; each document begins with the BOS token.
    """
    start = bundle.bos_token_id if bundle.bos_token_id is not None else 0
    longest = min(LONGEST_DOCUMENT, bundle.shape.max_position_embeddings - 1)
    scheduler = Scheduler(session, max_running=ROWS)
    documents: list[Sequence] = []
    tokens = 0

    def ends(token: SampledToken) -> FinishReason | None:
        return "stop" if token.token_id in bundle.eos_token_ids else None

    def begin_document() -> None:
        sampler = make_sampler(SamplingOptions(temperature=1, top_p=1, seed=len(documents)))
        documents.append(scheduler.add(Request([start], longest, sampler, stop_token_ids=(), on_token=ends)))

    for _ in range(ROWS):
        begin_document()
    with progress_bar(description="sample", unit="tokens", total=SAMPLED_TOKENS, show=progress) as bar:
        while tokens < SAMPLED_TOKENS:
            for sequence, token in scheduler.step():
                if sequence.error is not None:
                    raise sequence.error
                tokens += token is not None
                bar.update(token is not None)
                if sequence.finish_reason is not None:
                    begin_document()
    texts = [document.token_ids for document in documents]
    # Where one token is both BOS and end of text, it stands between two documents once.
    texts = [text[:-1] if text[-1] == start else text for text in texts]
    return [token_id for text in texts if len(text) > 1 for token_id in text]
