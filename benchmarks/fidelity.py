"""How far each precision of a bundle is from the model, beside other programs: the table of docs/fidelity.md.

    python -m benchmarks.fidelity CHECKPOINT BUNDLE ../shared/data/corpora/wikitext2-test.txt --precisions int8,q8,q4

The reference is transformers in float32: 16 windows of 512 tokens from the first 200,000 characters of the text, every
position of each window from an empty cache. The rows of other programs were measured in the same way, on the same
checkpoint and windows, with their own tools to convert it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime import Bundle, DecoderSession
from runtime.bundle import graph_and_weight_bytes
from runtime.evaluation.divergence import KlAccumulator
from runtime.evaluation.logits import Logits
from runtime.text.tokenizer import Tokenizer

CHARACTERS, WINDOWS, WINDOW_TOKENS = 200_000, 16, 512


@dataclass(frozen=True)
class Row:
    """One line of the table: the size in MB, KL in nats, top-1 agreement and the perplexity's change as shares."""

    name: str
    megabytes: float
    kl: float
    top1: float
    perplexity_change: float

    def __str__(self) -> str:
        change = f"{100 * self.perplexity_change:+.2f} %"
        return f"| {self.name} | {self.megabytes:.0f} | {self.kl:.2e} | {100 * self.top1:.1f} % | {change} |"


# SmolLM2-135M-Instruct.
PEERS = (
    Row("llama.cpp (llama-cpp-python 0.3.36) Q8_0", 145, 4.45e-3, 0.950, 0.0049),
    Row("OpenVINO GenAI 2026.4 int8", 135, 8.3e-3, 0.935, 0.0070),
    Row("onnxruntime-genai 0.18 int8, blocks of 128", 267, 1.27e-2, 0.922, 0.0201),
    Row("llama.cpp Q4_K_M, larger kinds where rows are no multiple of 256", 105, 6.0e-2, 0.848, 0.059),
    Row("llama.cpp Q4_0", 92, 3.3e-1, 0.671, 0.264),
    Row("onnxruntime-genai int4, blocks of 32", 86, 4.5e-1, 0.588, 0.413),
)


def reference_logits(checkpoint: Path, windows: np.ndarray) -> Iterator[np.ndarray]:
    """transformers' logits of each window in float32, [WINDOW_TOKENS, vocab_size]."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    for window in windows:
        with torch.inference_mode():
            yield model(torch.from_numpy(window)[None]).logits[0].numpy()


def measure(checkpoint: Path, bundle: Bundle, precisions: Sequence[str], windows: np.ndarray) -> list[Row]:
    """A row for each precision. The reference runs once; one session at a time is open beside it."""
    sessions = {name: DecoderSession(bundle, name) for name in precisions}
    divergences = {name: KlAccumulator() for name in precisions}
    nll = dict.fromkeys([*precisions, ""], 0.0)
    for window, expected in zip(windows, reference_logits(checkpoint, windows), strict=True):
        reference = Logits(expected)
        nll[""] += _nll(reference, window)
        for name, session in sessions.items():
            found = Logits(session.forward(window, session.new_cache(len(window)), num_logits_to_keep=0))
            divergences[name].add(reference, found)
            nll[name] += _nll(found, window)
    predicted = windows.size - len(windows)
    return [
        Row(
            f"**SmolText `{name}`**",
            graph_and_weight_bytes(bundle.folder, name) / 1e6,
            divergence.kl,
            divergence.top1_agreement,
            math.expm1((nll[name] - nll[""]) / predicted),
        )
        for name, divergence in divergences.items()
    ]


def _nll(logits: Logits, window: np.ndarray) -> float:
    """The negative log-likelihood of the window's tokens after the first, in nats."""
    rows = np.arange(len(window) - 1)
    return float((logits.normalizers[:-1] - logits.values[rows, window[1:]]).sum())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, the nearest to the model first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity", description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle")
    parser.add_argument("text", type=Path, help="a UTF-8 text")
    parser.add_argument("--precisions", metavar="P,P,...", help="default: all but fp32")
    parser.add_argument("--no-peers", action="store_true", help="leave out the rows of other programs: another model")
    parser.add_argument("--windows", type=int, default=WINDOWS, metavar="N", help="default %(default)s")
    args = parser.parse_args(arguments)
    bundle = Bundle.open(args.bundle)
    ids = Tokenizer(bundle).encode(args.text.read_text(encoding="utf-8")[:CHARACTERS], add_special_tokens=False)
    if len(ids) < args.windows * WINDOW_TOKENS:
        parser.error(f"{args.text} has {len(ids)} tokens, {args.windows} windows have {args.windows * WINDOW_TOKENS}")
    windows = np.array(ids[: args.windows * WINDOW_TOKENS], np.int64).reshape(args.windows, WINDOW_TOKENS)
    precisions = args.precisions.split(",") if args.precisions else [p for p in bundle.precisions if p != "fp32"]
    rows = measure(args.checkpoint, bundle, precisions, windows)
    rows += [] if args.no_peers else PEERS
    print("| | file MB | KL (nats) | top-1 | perplexity |\n|---|---|---|---|---|")
    print("\n".join(map(str, sorted(rows, key=lambda row: row.kl))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
