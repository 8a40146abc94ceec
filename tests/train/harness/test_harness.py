"""Our models under lm-evaluation-harness against the harness's own Hugging Face model; and our tasks."""

import json
import sys

import numpy as np
import pytest

from runtime.bundle import Bundle
from train.__main__ import main
from train.errors import RecipeError
from train.harness.evaluation import difference_interval, evaluate, score_interval
from train.harness.scorers import OnnxScorer, TorchScorer, open_scorers
from train.harness.tasks import items, task_names

# The harness and what it imports warn of their own.
pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = [
    ("Once upon a time", ", there was a little girl"),
    ("Once upon a time", ", there was a big dragon"),
    ("Lily was sad because", " she lost"),
    ("", "Once upon a time"),
    ("Tom had a ", "dog"),
]


@pytest.fixture(scope="module")
def harness():
    return pytest.importorskip("lm_eval", reason="requirements-extras.txt")


@pytest.fixture(scope="module")
def models(harness, shared_data):
    """Ours and the harness's own, of the same checkpoint."""
    from lm_eval.models.huggingface import HFLM

    from train.harness.harness_model import HarnessModel

    checkpoint = str(shared_data / "stories260k")
    theirs = HFLM(pretrained=checkpoint, device="cpu", dtype="float32", batch_size=1, add_bos_token=True)
    return HarnessModel(TorchScorer(checkpoint)), theirs


def requests(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]


def test_log_likelihoods_are_those_of_the_harness(models):
    ours, theirs = (model.loglikelihood(requests("loglikelihood", TEXTS), disable_tqdm=True) for model in models)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], rel=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert {greedy for _, greedy in ours} == {False, True}


def test_a_long_text_is_scored_in_the_windows_of_the_harness(models, shared_data, monkeypatch):
    # Theirs would begin the text with two special tokens, and count how well the second is predicted.
    monkeypatch.setattr(models[1], "add_bos_token", False)
    monkeypatch.setattr(models[1], "custom_prefix_token_id", models[0].eot_token_id)
    text = (shared_data / "corpora" / "tinystories-sample.txt").read_text()[:2500]  # twice the context
    ours, theirs = (
        model.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,), ("Once.",)]), disable_tqdm=True)
        for model in models
    )
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_generation_stops_where_the_harness_stops(models):
    options = [{"until": ["\n", "."], "max_gen_toks": 40, "do_sample": False}, {"until": ["zebra"], "max_gen_toks": 12}]
    asked = [("Once upon a time", each) for each in options]
    ours, theirs = (model.generate_until(requests("generate_until", asked), disable_tqdm=True) for model in models)
    assert ours == theirs
    assert "." not in ours[0]


def test_a_bundle_in_fp32_answers_as_its_checkpoint(harness, shared_data, stories260k_bundle):
    scorers = [TorchScorer(str(shared_data / "stories260k")), OnnxScorer(Bundle.open(stories260k_bundle), "fp32")]
    token_ids = [1, 403, 407, 261, 378]
    ours, theirs = (scorer.logits(token_ids, 3) for scorer in scorers)
    assert ours.shape == theirs.shape == (3, 512)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    texts = [[token for token, _ in zip(scorer.greedy(token_ids), range(20), strict=False)] for scorer in scorers]
    assert texts[0] == texts[1]
    results = evaluate(scorers, ["opposites", "agreement"], limit=12)
    assert [(result.task, result.items) for result in results[:3]] == [
        ("opposites", 12),
        ("agreement", 12),
        ("all", 24),
    ]
    assert [result.difference for result in results] == [None] * 3 + [0.0] * 3
    assert results[3].difference_interval == pytest.approx((-0.14, 0.14), abs=0.005)  # of twelve items


def test_evaluate_prints_one_json_object(harness, stories260k_bundle, capsys):
    arguments = ["evaluate", str(stories260k_bundle), "--precision", "fp32,int8", "--tasks", "past_tense"]
    assert main([*arguments, "--limit", "6", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["model"].rpartition(":")[2] for result in results] == ["fp32", "int8"]
    assert all(result["task"] == "past_tense" and 0 <= result["score"] <= 1 for result in results)
    assert results[1]["difference"] == pytest.approx(results[1]["score"] - results[0]["score"])


def test_a_task_that_is_not_there_is_an_error(harness, tiny_bundle, capsys):
    assert main(["evaluate", str(tiny_bundle), "--tasks", "capitol"]) == 1
    assert "there is no task capitol; ours are capitals, opposites" in capsys.readouterr().err


def test_without_the_harness_the_error_says_what_to_install(monkeypatch, tiny_bundle):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(RecipeError, match="pip install lm-eval"):
        evaluate(open_scorers(str(tiny_bundle)))


def test_intervals_are_those_of_the_literature():
    # R's binom::binom.wilson(72, 72), and (45, 60); Agresti and Min (2005) worked out by hand; z * s / sqrt(n)
    assert score_interval(np.ones(72)) == pytest.approx((0.949345, 1.0), abs=1e-5)
    assert score_interval(np.repeat([1.0, 0.0], [45, 15])) == pytest.approx((0.62766, 0.84225), abs=1e-4)
    same, some = np.zeros(98), np.repeat([1.0, -1.0, 0.0], [3, 9, 86])
    assert difference_interval(same) == pytest.approx((-0.0196, 0.0196), abs=1e-4)
    half = 1.959964 * (13 - 36 / 100) ** 0.5 / 100
    assert difference_interval(some) == pytest.approx((-0.06 - half, -0.06 + half))
    values = np.array([0.5, 1.5, 2.5])
    assert score_interval(values) == difference_interval(values) == pytest.approx((1.5 - 1.131586, 1.5 + 1.131586))


@pytest.mark.parametrize("name", task_names())
def test_each_item_has_one_right_answer_among_others(name):
    made = items(name)
    assert len(made) >= 50
    assert len({item["question"] for item in made}) == len(made)
    for item in made:
        assert len(set(item["choices"])) == len(item["choices"]) >= 2
        assert 0 <= item["answer"] < len(item["choices"])
    places = [item["answer"] for item in made]
    most = max(places.count(place) for place in set(places))
    assert most <= len(made) / min(len(item["choices"]) for item in made) + 1


def test_the_answers_are_those_of_the_tables():
    item = items("capitals")[0]
    assert (item["question"], item["choices"][item["answer"]]) == ("The capital of France is", "Paris")
    total = items("sums")[3]
    assert (total["question"], total["choices"][total["answer"]]) == ("2 + 5 =", "7")
    plural = items("agreement")[2]
    assert plural["question"] == "The keys that the girl saw in the morning"
    assert plural["choices"][plural["answer"]] == "are"
