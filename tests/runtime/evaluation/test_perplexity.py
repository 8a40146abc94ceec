"""Every token is predicted once, with as much before it as the window allows."""

from __future__ import annotations

import numpy as np
import pytest

from runtime import Bundle, DecoderSession
from runtime.errors import OptionError, PromptError
from runtime.evaluation.perplexity import measure_perplexity, strided_windows
from tests.runtime.softmax import log_softmax


@pytest.fixture(scope="module")
def sessions(tiny_bundle):
    return [DecoderSession(Bundle.open(tiny_bundle), name, threads=1) for name in ("fp32", "int8")]


def random_ids(count):
    return np.random.default_rng(0).integers(3, 320, count).tolist()


@pytest.mark.parametrize("tokens", [2, 9, 10, 11, 15, 57])
@pytest.mark.parametrize(("window", "stride"), [(10, 5), (10, 1), (10, 9), (2, 1), (7, 3)])
def test_each_token_but_the_first_is_predicted_once_with_enough_before_it(window, stride, tokens):
    ids = list(range(tokens))
    predicted = []
    for number, (part, count) in enumerate(strided_windows(ids, window, stride)):
        assert len(part) <= window
        assert part == ids[part[0] : part[-1] + 1]
        assert number == 0 or len(part) - count >= window - stride
        predicted += part[-count:]
    assert predicted == ids[1:]


def test_a_text_within_one_window_is_worked_out_from_its_logits(sessions):
    session, ids = sessions[0], random_ids(50)
    logits = session.forward(ids, session.new_cache(), num_logits_to_keep=0)
    nats = -log_softmax(logits[:-1])[np.arange(49), ids[1:]].mean()
    result = measure_perplexity(session, ids)
    assert result.tokens == 49
    assert result.nats_per_token == pytest.approx(nats, rel=1e-5)
    assert result.perplexity == pytest.approx(np.exp(nats), rel=1e-5)
    assert result.interval is None  # too short a text
    assert result.against is None


def test_against_another_precision(sessions):
    fp32, int8 = sessions
    result = measure_perplexity(int8, random_ids(300), window=64, stride=32, against=fp32)
    alone = measure_perplexity(fp32, random_ids(300), window=64, stride=32)
    assert result.against_perplexity == pytest.approx(alone.perplexity)
    assert result.change == pytest.approx(result.perplexity / alone.perplexity - 1)
    assert result.change_interval[0] < result.change < result.change_interval[1]
    assert result.interval[0] < result.perplexity < result.interval[1]
    assert 0 < result.kl < 0.05
    assert 0.5 < result.top1_agreement <= 1
    itself = measure_perplexity(fp32, random_ids(300), window=64, against=fp32)
    assert (itself.kl, itself.top1_agreement, itself.change) == (0, 1, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 1}, r"window must lie in 2\.\.192"),
        ({"window": 193}, r"window must lie in 2\.\.192"),
        ({"stride": 0}, r"stride must lie in 1\.\.191"),
        ({"window": 10, "stride": 10}, r"stride must lie in 1\.\.9"),
    ],
)
def test_windows_that_cannot_be_are_refused(options, words, sessions):
    with pytest.raises(OptionError, match=words):
        measure_perplexity(sessions[0], random_ids(20), **options)


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_text_of_nothing_to_predict_is_refused(tokens, sessions):
    with pytest.raises(PromptError, match="fewer than two tokens"):
        measure_perplexity(sessions[0], random_ids(tokens))
