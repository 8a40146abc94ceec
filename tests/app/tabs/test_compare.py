"""Compare: columns that can be held beside each other, and PyTorch among them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest

from runtime import LanguageModel, SamplingOptions
from runtime.bundle import Bundle

GREEDY = {"temperature": 0, "max_new_tokens": 12}
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


def tokens(events: list[dict]) -> list[list]:
    return [token for event in events if "tokens" in event for token in event["tokens"]]


def kinds(events: list[dict]) -> list[str]:
    return [next(iter(event)) for event in events]


@pytest.fixture(scope="module")
def real_page(open_page, shared_data, stories260k_bundle):
    """Trained weights whose checkpoint is at hand."""
    bundle = Bundle.open(stories260k_bundle)
    return open_page(replace(bundle, manifest={**bundle.manifest, "source": str(shared_data / "stories260k")}))


def test_a_column_is_the_models_text_with_its_ids(page, endless_bundle):
    events = page.events("/page/compare", text="The mouse", precision="fp32", sampling=GREEDY)
    model = LanguageModel.load(endless_bundle, precision="fp32")
    expected = model.generate("The mouse", SamplingOptions(**GREEDY))
    assert [token_id for _, token_id in tokens(events)] == expected.token_ids
    assert "".join(text for text, _ in tokens(events)) == expected.text
    assert events[-1]["end"]["finish_reason"] == "length"


def test_a_seed_gives_the_same_column_again(page):
    wish = {"text": "The cat", "sampling": {"temperature": 1, "max_new_tokens": 12, "seed": 7}}
    first, second = (page.events("/page/compare", **wish) for _ in range(2))
    assert tokens(first) == tokens(second)


def test_nothing_of_a_prompt_is_taken_from_an_earlier_column(page):
    wish = {"text": "The mouse knew the cat and the cat knew the mouse. " * 2, "sampling": GREEDY}
    ends = [page.events("/page/compare", **wish)[-1]["end"] for _ in range(3)]
    assert [end["cached_tokens"] for end in ends] == [0, 0, 0]
    page.events("/page/continue", **wish)
    assert page.events("/page/compare", **wish)[-1]["end"]["cached_tokens"] == 0


def test_a_question_goes_through_the_chat_template(page, endless_bundle):
    wish = {"text": "Who?", "as_question": True, "system": "Be brief.", "sampling": GREEDY}
    model = LanguageModel.load(endless_bundle, precision="int8")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    expected = "".join(delta.text for delta in model.chat(messages, SamplingOptions(**GREEDY)))
    assert "".join(text for text, _ in tokens(page.events("/page/compare", **wish))) == expected


def test_an_unknown_precision_is_said(page):
    assert "choose" in page.events("/page/compare", text="a", precision="int3")[-1]["error"]


def test_a_misspelt_field_is_refused(page):
    status, message = page.refused("/page/compare", text="a", as_qestion=True)
    assert (status, message) == (400, "unknown field as_qestion: did you mean as_question?")


def test_without_a_checkpoint_there_is_no_pytorch(page):
    assert "checkpoint" in page.get("/page/model")["pytorch"]["missing"]
    assert "checkpoint" in page.events("/page/compare", text="a", precision="pytorch")[-1]["error"]


@needs_torch
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 0.8, "top_p": 0.9, "seed": 5}])
def test_pytorch_draws_the_tokens_of_fp32(real_page, sampling):
    wish = {"text": "Once upon a time", "sampling": {"max_new_tokens": 60, **sampling}}
    torch, fp32 = (real_page.events("/page/compare", **wish, precision=name) for name in ("pytorch", "fp32"))
    assert tokens(torch) == tokens(fp32)
    assert torch[-1]["end"]["new_tokens"] == 60
    assert torch[-1]["end"]["tokens_per_second"] > 0


@needs_torch
def test_pytorch_stops_where_it_should(real_page):
    wish = {"text": "Once upon a time", "precision": "pytorch"}
    sampling = {"temperature": 0, "max_new_tokens": 60, "stop_strings": [" little"]}
    events = real_page.events("/page/compare", **wish, sampling=sampling)
    assert events[-1]["end"]["finish_reason"] == "stop"
    assert "little" not in "".join(text for text, _ in tokens(events))


@needs_torch
def test_what_is_wrong_with_options_is_said_and_pytorch_goes_on(real_page):
    wish = {"text": "Once", "precision": "pytorch"}
    assert "regex" in real_page.events("/page/compare", **wish, sampling={"regex": "("})[-1]["error"]
    events = real_page.events("/page/compare", **wish, sampling=GREEDY)
    assert "loading" not in kinds(events)
    assert len(tokens(events)) == 12


@needs_torch
def test_the_page_itself_never_loads_torch(stories260k_bundle, shared_data):
    """In a process that has not been told of torch by another test."""
    script = f"""
import sys
from dataclasses import replace
from starlette.testclient import TestClient
from app.api.application import Settings
from app.site import Site
from app.wishes import PageLimits
from runtime.bundle import Bundle
bundle = Bundle.open({str(stories260k_bundle)!r})
bundle = replace(bundle, manifest=dict(bundle.manifest, source={str(shared_data / "stories260k")!r}))
settings = Settings(name="a", slots=1, queue=1)
site = Site(bundle, precision="int8", settings=settings, page_limits=PageLimits(), threads=1)
with TestClient(site) as client:
    wish = {{"text": "Once", "precision": "pytorch", "sampling": {{"max_new_tokens": 4}}}}
    assert '"end"' in client.post("/page/compare", json=wish).text
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
