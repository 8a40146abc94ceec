"""A model's own sampling defaults: used where nothing is asked for, and replaced option by option."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from runtime import Bundle, ChatSession, LanguageModel, SamplingOptions
from runtime.batch.job import describe_job
from runtime.batch.reading import open_input
from runtime.batch.worker import BatchWorker
from runtime.chat_session import ContextPolicy
from runtime.errors import OptionError, PromptError
from runtime.sampling.options import DefaultLength
from tests.runtime.batch.files import read_lines, write_lines
from tests.runtime.files import edit_json, fails

CONTEXT = 192
GREEDY = {"do_sample": False}


@pytest.fixture
def bundle_of(broken_bundle: Path) -> Callable[..., Path]:
    """Makes a bundle that stores sampling values, and whose random weights end no text by themselves."""

    def make(**values: object) -> Path:
        edit_json(broken_bundle / "generation_config.json", eos_token_id=[], **values)
        return broken_bundle

    return make


@pytest.fixture
def model_of(bundle_of: Callable[..., Path]) -> Callable[..., LanguageModel]:
    def make(**values: object) -> LanguageModel:
        return LanguageModel.load(bundle_of(**values), precision="fp32", threads=1)

    return make


@pytest.fixture
def taken(monkeypatch):
    """The options of every text that a model is asked for."""
    found = []
    text_request = LanguageModel.text_request

    def recorded(self, prompt_ids, sampling=None, **rest):
        found.append(sampling)
        return text_request(self, prompt_ids, sampling, **rest)

    monkeypatch.setattr(LanguageModel, "text_request", recorded)
    return found


def ask(session: ChatSession, question: str, sampling: SamplingOptions | None = None) -> str:
    return "".join(delta.text for delta in session.ask(question, sampling))


def test_a_bundle_without_values_has_the_runtimes_defaults(tiny_model):
    assert tiny_model.default_sampling == SamplingOptions()


def test_without_options_every_way_uses_the_models_own(model_of):
    model = model_of(**GREEDY, repetition_penalty=1.3, max_new_tokens=9)
    explicit = SamplingOptions(temperature=0, repetition_penalty=1.3, max_new_tokens=9)
    expected = model.generate("the mouse", explicit)
    assert expected.token_ids != model.generate("the mouse", SamplingOptions(temperature=0, max_new_tokens=9)).token_ids
    assert model.generate("the mouse").token_ids == expected.token_ids
    assert [delta.token_id for delta in model.stream("the mouse")] == expected.token_ids
    messages = [{"role": "user", "content": "the mouse"}]
    answer = "".join(delta.text for delta in model.chat(messages))
    assert answer == "".join(delta.text for delta in model.chat(messages, explicit))
    assert ask(ChatSession(model), "the mouse") == answer


def test_explicit_options_take_nothing_from_the_model(model_of):
    model = model_of(**GREEDY, max_new_tokens=5, min_new_tokens=2)
    assert model.generate("the", SamplingOptions(seed=1)).new_tokens == CONTEXT - len(model.tokenizer.encode("the"))
    assert model.generate("the", SamplingOptions(max_new_tokens=1)).new_tokens == 1


def test_a_stored_length_is_cut_and_an_explicit_one_refused(model_of):
    model = model_of(**GREEDY, max_new_tokens=4096, min_new_tokens=500)
    room = CONTEXT - 100
    assert model.generate([5] * 100).new_tokens == room
    assert model.generate([5] * 100, replace(model.default_sampling, repetition_penalty=1.2)).new_tokens == room
    for strict in (replace(model.default_sampling, max_new_tokens=4096), SamplingOptions(max_new_tokens=4096)):
        with pytest.raises(OptionError, match="ask for at most 92"):
            model.generate([5] * 100, strict)
    with pytest.raises(OptionError, match="min_new_tokens 500 is more than"):
        model.generate([5] * 100, replace(model.default_sampling, min_new_tokens=500))
    with pytest.raises(PromptError, match="the model's context is 192"):
        model.generate([5] * CONTEXT)


@pytest.mark.parametrize("stored", [{"max_length": 12}, {"max_length": 12, "max_new_tokens": 9}, {"max_length": 20}])
def test_a_stored_length_counts_tokens_as_transformers_does(stored, bundle_of):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = bundle_of(**GREEDY, **stored)
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    theirs = transformers.LlamaForCausalLM(config)
    theirs.generation_config = transformers.GenerationConfig.from_pretrained(folder, eos_token_id=None, pad_token_id=0)
    model = LanguageModel.load(folder, precision="fp32", threads=1)
    for prompt_tokens in (1, 5, 11):
        whole = theirs.generate(torch.full((1, prompt_tokens), 5))
        assert model.generate([5] * prompt_tokens).new_tokens == whole.shape[1] - prompt_tokens
    if "max_new_tokens" not in stored:
        with pytest.raises(ValueError, match="max_length"):
            theirs.generate(torch.full((1, stored["max_length"]), 5))
        with pytest.raises(PromptError, match=r"by max_length \d+ of .* or give max_new_tokens"):
            model.generate([5] * stored["max_length"])


@pytest.mark.parametrize("stored", [{"max_new_tokens": 4096}, {"max_length": 4096}])
def test_a_chat_goes_on_where_a_stored_length_does_not_fit(stored, model_of):
    session = ChatSession(model_of(**GREEDY, **stored))
    assert ask(session, "the mouse")
    with pytest.raises(PromptError, match="the model's context is 192: begin anew"):
        ask(session, "and?")  # the answer filled the context


@pytest.mark.parametrize("policy", ["error", "drop_oldest"])
def test_a_chat_keeps_to_the_models_max_length(policy: ContextPolicy, model_of):
    model = model_of(**GREEDY, max_length=100)
    session = ChatSession(model, context_policy=policy)
    ask(session, "the mouse")
    written = session.prompt_tokens + len(session._written[1][session.prompt_tokens :])
    assert written == 100
    if policy == "error":
        with pytest.raises(PromptError, match=r"the model's max_length \(generation_config.json\) is 100: begin anew"):
            ask(session, "and?")
    else:
        ask(session, "and?")
        assert session.dropped_messages == 2


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ([], {}),
        (["--temperature", "0.9"], {"temperature": 0.9}),
        (["--greedy"], {"temperature": 0.0}),
        (["--top-k", "0"], {"top_k": 0}),
        (["--max-new-tokens", "3", "--seed", "1"], {"max_new_tokens": 3, "seed": 1}),
    ],
)
def test_the_command_line_replaces_defaults_option_by_option(given, changed, run, stdin, bundle_of, taken, tmp_path):
    bundle = bundle_of(temperature=0.2, top_k=7, max_new_tokens=4)
    expected = SamplingOptions(**{"temperature": 0.2, "top_k": 7, "max_new_tokens": 4, **changed})
    assert run("generate", bundle, *given)[0] == 0
    stdin(b"hello\n")
    assert run("chat", bundle, *given)[0] == 0
    assert taken == [expected, expected]
    taken.clear()
    prompts = write_lines(tmp_path / "in.jsonl", [{"prompt": "the"}, {"prompt": "the", "top_k": 9, "max_tokens": 2}])
    code, out, _ = run("batch", bundle, prompts, *given)
    assert code == 0
    seeds = [None, None] if expected.seed is None else [1, 2]
    assert taken[1:] == [  # the first asks whether any line could be generated
        replace(expected, seed=seeds[0]), replace(expected, seed=seeds[1], top_k=9, max_new_tokens=2)
    ]  # fmt: skip
    assert [line["new_tokens"] for line in read_lines(out)] == [expected.max_new_tokens, 2]


def test_commands_cut_a_stored_length_and_refuse_a_given_one(run, bundle_of, tmp_path):
    bundle = bundle_of(max_new_tokens=4096)
    code, out, _ = run("generate", bundle, "--prompt", "the", "--json", "--seed", "1")
    result = json.loads(out)
    assert (code, result["prompt_tokens"] + result["new_tokens"]) == (0, CONTEXT)
    fails(run("generate", bundle, "--prompt", "the", "--max-new-tokens", "4096"), "ask for at most")
    prompts = write_lines(tmp_path / "in.jsonl", [{"prompt": "the", "max_new_tokens": 4096}, {"prompt": "the"}])
    _, out, _ = run("batch", bundle, prompts, "--seed", "1")
    given, stored = read_lines(out)
    assert "ask for at most" in given["error"]
    assert stored["prompt_tokens"] + stored["new_tokens"] == CONTEXT


def test_a_batch_worker_cuts_lines_alone(model_of, tmp_path):
    model = model_of(**GREEDY, max_length=50)
    write_lines(tmp_path / "in.jsonl", [{"prompt": "the"}, {"prompt": "the cat and the mouse"}])
    with open_input(str(tmp_path / "in.jsonl")) as lines:
        results = list(BatchWorker(model, model.default_sampling).run(lines.lines()))
    assert [result.added["prompt_tokens"] + result.added["new_tokens"] for result in results] == [50, 50]


def test_a_batch_of_other_defaults_is_another_job(bundle_of, tmp_path):
    write_lines(tmp_path / "in.jsonl", [{"prompt": "the"}])
    bundle = Bundle.open(bundle_of())
    lengths = [64, DefaultLength(64), DefaultLength(64, counts_prompt=True), None]
    with open_input(str(tmp_path / "in.jsonl")) as source:
        jobs = [describe_job(source, bundle, "fp32", SamplingOptions(max_new_tokens=length)) for length in lengths]
    assert len({json.dumps(job) for job in jobs}) == len(lengths)
    assert [job["sampling"]["max_new_tokens"] for job in jobs][::3] == [64, None]
