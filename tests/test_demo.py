"""What the demo promises of its model, measured on the whole chain: minutes, so it is slow."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the demo trains with torch")

# Of 1,000 stories, 95.1 % parse in fp32 and 93.7 % in int8 (94.2 % rounded to the nearest, 94.9 % in q8): 24 parse in
# one of the two alone. So for 400 the difference is -1.4 % by 0.8 %, and the limits are what three times that leaves.
STORIES = 400
LEAST, MOST_LOST = 0.92, 0.035
TEMPERATURE = 0.6


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's run, trained to its end, with its bundle."""
    from export.bundle import export_bundle
    from export.precisions import parse_precisions
    from model import Checkpoint
    from train.config import read_recipe
    from train.loop import train
    from train.run.folder import RunFolder
    from train.setup import start_run

    folder = tmp_path_factory.mktemp("demo")
    run = start_run(read_recipe("stories-tiny"), RunFolder(folder / "run"))
    outcome = train(run)
    export_bundle(
        Checkpoint(run.folder.checkpoint), folder / "bundle", parse_precisions("int8"), source="demo", progress=False
    )
    return run, outcome, folder / "bundle"


def story(next_logits, tokenizer, seed):
    """A story from nothing, drawn by inverting the distribution: for one seed, every engine gets the same draws."""
    random, token_ids = np.random.default_rng(seed), [0]
    for _ in range(250):
        logits = next_logits(token_ids).astype(np.float64) / TEMPERATURE
        probabilities = np.exp(logits - logits.max())
        drawn = int(np.searchsorted(probabilities.cumsum(), random.random() * probabilities.sum()))
        if drawn == 0:  # the end of a text, which is its beginning too
            break
        token_ids.append(drawn)
    return tokenizer.decode(token_ids[1:])


class Engine:
    """Logits after the last of some tokens; a call with one token begins a text, and each later call has one more."""

    def __init__(self, new_cache, step):
        self._new_cache, self._step, self._cache = new_cache, step, None

    def __call__(self, token_ids):
        if len(token_ids) == 1:
            self._cache = self._new_cache()
        return self._step(token_ids[-1:], self._cache)


def pytorch(model):
    @torch.inference_mode()
    def step(token_ids, cache):
        return model(torch.tensor([token_ids]), kv_cache=cache)[0, -1].numpy()

    return Engine(lambda: model.new_cache(1, model.config.max_position_embeddings), step)


def onnx(bundle, precision):
    from runtime import Bundle, DecoderSession

    session = DecoderSession(Bundle.open(bundle), precision)
    return Engine(session.new_cache, lambda token_ids, cache: session.forward(token_ids, cache)[-1])


@pytest.mark.slow
def test_the_demo_learns_the_stories_and_int8_tells_them_as_well(demo):
    from train.data.stories import parses

    run, outcome, bundle = demo
    assert outcome["entropy_ratio"] < 1.05
    shares = {
        name: sum(parses(story(engine, run.tokenizer, seed)) for seed in range(STORIES)) / STORIES
        for name, engine in (("fp32", pytorch(run.model.eval())), ("int8", onnx(bundle, "int8")))
    }
    print(f"{outcome['entropy_ratio']:.4f} x the true entropy; stories that parse: {shares}")
    assert shares["fp32"] >= LEAST
    assert shares["int8"] >= shares["fp32"] - MOST_LOST
