"""The same worker on the machines of a Ray cluster. Needs ray, an optional extra.

Ray Data hands blocks of a file to actors, each with a model of its own; a block whose actor dies is computed again by
another. Results come back in the order of the lines. Every machine must see the file and the bundle under their paths.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.batch.blocks import Block, read_block, split
from runtime.batch.lines import FinishedLine
from runtime.batch.worker import BatchWorker
from runtime.bundle import Bundle
from runtime.engine.threads import default_threads
from runtime.errors import BatchError, MissingDependencyError, OptionError, SmolTextError
from runtime.generation.text_request import TextRequest
from runtime.language_model import LanguageModel
from runtime.sampling.constraint import GrammarVocabulary
from runtime.sampling.options import SamplingOptions
from runtime.text.tokenizer import Tokenizer

# A block is the unit of loss: small beside the whole, large beside a batch, which runs empty at its end.
BLOCKS_A_WORKER = 8
MOST_BLOCK_LINES = 256


@dataclass(frozen=True)
class RemoteWork:
    """What an actor needs to know.

    Attributes:
        bundle: folder or Hub id.
        revision: of a Hub id.
        path: of the input.
        precision: of the model.
        sampling: options of lines that do not give their own.
        batch_size: lines at a time.
        threads: of a matrix product.
    """

    bundle: str
    revision: str | None
    path: str
    precision: str
    sampling: SamplingOptions
    batch_size: int
    threads: int | None


class BlockWorker:
    """An actor: opens the model once, and generates block after block."""

    def __init__(self, work: RemoteWork) -> None:
        self._path = work.path
        model = LanguageModel.load(work.bundle, precision=work.precision, threads=work.threads, revision=work.revision)
        self._worker = BatchWorker(model, work.sampling, batch_size=work.batch_size)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The results of a block, a row each."""
        block = Block(*(int(batch[name][0]) for name in ("number", "index", "start", "end")))
        results = list(self._worker.run(read_block(self._path, block)))
        return {
            "content": [result.to_bytes() for result in results],
            "failed": [result.failed for result in results],
        }


def check_work(bundle: Bundle, work: RemoteWork) -> None:
    """Raise what every worker would: said here, it is one line.

    Raises:
        OptionError, ConstraintError: batch_size below 1, or options for all that the model cannot have.
    """
    if work.batch_size < 1:
        raise OptionError(f"batch_size must be at least 1, not {work.batch_size}")
    tokenizer = Tokenizer(bundle)
    TextRequest(
        bundle.shape,
        tokenizer,
        [0],
        replace(work.sampling, min_new_tokens=0),
        stop_token_ids=bundle.eos_token_ids,
        vocabulary=lambda: GrammarVocabulary(tokenizer, bundle.shape.vocab_size),
        on_delta=lambda _: None,
    )


def run_on_ray(work: RemoteWork, *, done: int, left: int, workers: int | None) -> Iterator[FinishedLine]:
    """The results of a file's lines, in order.

    Args:
        work: what to do.
        done: lines that are not to be computed again.
        left: lines after them.
        workers: actors; None for as many as the cluster has cores for.

    Raises:
        MissingDependencyError: ray is not installed.
        OptionError: the cluster has fewer cores.
        BatchError: the cluster failed.
    """
    ray = _require_ray()
    with _cluster(ray):
        threads = work.threads or default_threads()
        cores = int(ray.cluster_resources().get("CPU", 1))
        actors = workers or max(1, cores // threads)
        if actors < 1 or actors * threads > cores:
            raise OptionError(
                f"{actors} workers of {threads} threads need {actors * threads} cores and the cluster has {cores}: "
                "choose other --workers or --threads"
            )
        size = min(MOST_BLOCK_LINES, max(work.batch_size, math.ceil(left / (BLOCKS_A_WORKER * actors))))
        blocks = [vars(block) for block in split(work.path, done, size)]
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        results = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
            BlockWorker,
            fn_constructor_args=(work,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=threads,
        )
        try:
            for row in results.iter_rows():
                yield FinishedLine(bytes(row["content"]), bool(row["failed"]))
        except ray.exceptions.RayError as error:
            raise _cause(error) from None


def _require_ray() -> Any:
    # Ray tells its makers of each use, unless told not to; and draws bars of its own beside ours.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingDependencyError("--engine ray needs Ray: pip install 'ray[data]'") from None
    return ray


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """The cluster that RAY_ADDRESS names, or one of this machine for as long as it is needed."""
    is_ours = not ray.is_initialized()
    if is_ours:
        package = Path(__file__).resolve().parents[1]
        ray.init(
            include_dashboard=False if "RAY_ADDRESS" not in os.environ else None,
            log_to_driver=False,
            logging_level="error",
            runtime_env={"py_modules": [str(package)]},  # workers have our code, wherever they are
        )
    try:
        yield
    finally:
        if is_ours:
            ray.shutdown()


def _cause(error: Any) -> Exception:
    """What a worker raised, where it is a user's to hear; or that the cluster failed."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, SmolTextError):
        return cause
    return BatchError(f"the Ray cluster failed: {str(error).splitlines()[0]}; the lines that are done are kept")
