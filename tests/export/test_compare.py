"""The comparison tells a right export from a wrong one, and int8 keeps its promise on real weights."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from export.__main__ import main
from export.comparison.compare import compare
from export.comparison.report import table
from export.comparison.sampled_text import LONGEST_DOCUMENT, ROWS, SAMPLED_TOKENS, sample_tokens
from export.comparison.torch_reference import TorchReference
from model import load_checkpoint
from runtime import Bundle, DecoderSession
from runtime.evaluation.divergence import KlAccumulator
from runtime.evaluation.logits import Logits
from runtime.evaluation.nll import NllAccumulator
from runtime.evaluation.windows import document_windows
from runtime.text.tokenizer import Tokenizer


def test_windows_predict_every_token_but_the_first_exactly_once():
    for length in (2, 9, 10, 11, 19, 20, 100):
        tokens = list(range(length))
        parts = list(document_windows(tokens, 10))
        assert [target for part in parts for target in part[1:]] == tokens[1:]
        assert all(2 <= len(part) <= 10 for part in parts)


def test_no_window_reaches_from_one_document_into_the_next():
    tokens = [0, 5, 6, 7, 0, 8, 0, 0, 9, 9, 9, 9, 0]
    parts = list(document_windows(tokens, 3, document_start=0))
    assert parts == [[0, 5, 6], [6, 7, 0], [0, 8, 0], [0, 0], [0, 9, 9], [9, 9, 9], [9, 0]]
    assert [target for part in parts for target in part[1:]] == tokens[1:]


def test_divergence_and_perplexity_of_distributions_worked_out_by_hand():
    reference = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], np.float32))
    candidate = np.log(np.array([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]], np.float32)) + np.float32(3)
    divergence = KlAccumulator()
    divergence.add(Logits(reference), Logits(candidate))
    assert divergence.kl == pytest.approx((0.5 * math.log(2) - 0.25 * math.log(2)) / 2)
    assert divergence.top1_agreement == 0.5
    assert divergence.max_absolute == pytest.approx(3 + math.log(2), rel=1e-6)
    prediction = NllAccumulator()
    prediction.add(Logits(reference), np.array([1, 2]))
    assert prediction.perplexity == pytest.approx(math.sqrt(4 / 0.6))


def test_int8_and_q8_keep_their_promises_on_trained_weights(shared_data, stories260k_bundle):
    """The project's bar for a model this small, on the first 60,000 characters of real text."""
    bundle = Bundle.open(stories260k_bundle)
    text = (shared_data / "corpora" / "tinystories-sample.txt").read_text(encoding="utf-8")[:60_000]
    reference = TorchReference(load_checkpoint(shared_data / "stories260k"))
    token_ids = Tokenizer(bundle).encode(text)
    comparison = compare(bundle, reference, token_ids=token_ids, text="stories", progress=False)
    # Known from another program: transformers' mean negative log-likelihood on the same windows.
    assert comparison.reference.mean_nats == pytest.approx(1.678, abs=5e-4)
    fp32, int8 = comparison.precisions["fp32"], comparison.precisions["int8"]
    assert fp32.max_relative_logit_difference < 1e-5
    assert fp32.first_divergence is None
    assert abs(int8.perplexity / comparison.reference.perplexity - 1) < 0.003
    assert int8.kl <= 2e-3
    assert int8.top1_agreement >= 0.975
    assert int8.int8_weight_fraction == 1
    q8 = comparison.precisions["q8"]
    assert q8.kl <= 3e-3
    assert abs(q8.perplexity / comparison.reference.perplexity - 1) < 0.003
    assert all(name in table(comparison) for name in ("PyTorch", "fp32", "int8", "q8"))


def test_files_too_large_to_be_open_together_have_the_same_figures_one_by_one(tiny_bundle, monkeypatch):
    bundle = Bundle.open(tiny_bundle)
    together = compare(bundle, progress=False)
    monkeypatch.setattr("export.comparison.compare.OPENED_BYTES", 1)
    apart = compare(bundle, progress=False)
    assert [figures.kl for figures in apart.precisions.values()] == [
        figures.kl for figures in together.precisions.values()
    ]


def test_without_a_text_the_model_writes_one_itself(shared_data, stories260k_bundle):
    reference = TorchReference(load_checkpoint(shared_data / "stories260k"))
    comparison = compare(Bundle.open(stories260k_bundle), reference, progress=False)
    assert comparison.tokens > 100
    assert comparison.precisions["fp32"].kl < 1e-9


def test_the_models_own_text_is_documents_that_begin_with_bos_the_same_every_time(tiny_bundle, stories260k_bundle):
    for folder in (tiny_bundle, stories260k_bundle):
        bundle = Bundle.open(folder)
        first, again = (sample_tokens(bundle, DecoderSession(bundle, "fp32"), progress=False) for _ in range(2))
        assert first == again
        assert SAMPLED_TOKENS <= len(first) <= SAMPLED_TOKENS + 200
        assert first[0] == bundle.bos_token_id
        windows = list(document_windows(first, 512, bundle.bos_token_id))
        assert len(windows) >= ROWS
        assert all(len(window) <= LONGEST_DOCUMENT + 2 for window in windows)
        assert all(token_id not in window[1:-2] for window in windows for token_id in bundle.eos_token_ids)


def test_weights_of_another_model_show_at_once(shared_data, stories260k_bundle):
    model = load_checkpoint(shared_data / "stories260k")
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight.mul_(1.1)
    reference = TorchReference(model)
    fp32 = compare(Bundle.open(stories260k_bundle), reference, progress=False).precisions["fp32"]
    assert fp32.max_relative_logit_difference > 1e-3
    assert fp32.kl > 1e-5


def test_the_json_has_the_keys_that_others_rely_on(shared_data, stories260k_bundle, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text((shared_data / "corpora" / "tinystories-sample.txt").read_text(encoding="utf-8")[:8000])
    checkpoint = str(shared_data / "stories260k")
    arguments = ["compare", str(stories260k_bundle), "--checkpoint", checkpoint, "--text", str(text), "--json"]
    assert main(arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["reference"]["perplexity"] > 1
    assert figures["precisions"].keys() == {"fp32", "int8", "q8"}
    assert figures["precisions"]["int8"].keys() >= {
        "kl", "top1_agreement", "perplexity", "max_abs_logit_difference", "mean_abs_logit_difference",
        "int8_weight_fraction", "file_bytes", "prefill_tokens_per_second", "decode_tokens_per_second",
        "first_divergence",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [("absent.txt", None, "absent.txt"), ("binary.txt", b"\xff\xfe\x00", "UTF-8"), ("short.txt", b"Hi", "needs more")],
)
def test_a_text_that_cannot_be_compared_is_one_clear_line(
    shared_data, stories260k_bundle, tmp_path, capsys, name, content, named
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    checkpoint = str(shared_data / "stories260k")
    arguments = ["compare", str(stories260k_bundle), "--checkpoint", checkpoint, "--text", str(tmp_path / name)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
