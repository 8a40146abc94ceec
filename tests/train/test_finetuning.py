"""Going on from a checkpoint: a book, conversations, adapters; and what comes out is an ordinary checkpoint."""

import copy
import json
import math
import re
import shutil

import pytest
import torch

from model import load_checkpoint
from model.errors import ConfigError
from train.config import Recipe, read_recipe
from train.data.config import DataSection, SourceSection
from train.data.corpus import build_corpus
from train.data.tokenizer import CorpusTokenizer
from train.errors import DataError, RecipeError
from train.evaluate import count_bytes, held_out_loss
from train.loop import train
from train.lora import merged
from train.resume import resume_run
from train.run.folder import RunFolder
from train.run.metrics import read_metrics
from train.setup import start_run

SHORT = {"steps": 6, "warmup_steps": 1, "decay_steps": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny checkpoint that knows a little of the stories."""
    values = read_recipe("stories-tiny").to_dict()
    values["model"]["overrides"] = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 512}
    values["tokenizer"]["vocab_size"] = 500
    values["data"] |= {"documents": 200, "batch_size": 4, "held_out": 0.1}
    values["schedule"] = SHORT
    values["run"] |= {"sample_every": 0, "evaluate_every": 0}
    values["machine"]["threads"] = 1
    run = start_run(Recipe.from_dict(values), RunFolder(tmp_path_factory.mktemp("base") / "run"))
    train(run)
    return run.folder.checkpoint


@pytest.fixture
def chat_file(tmp_path):
    path = tmp_path / "chat.jsonl"
    lines = [
        [{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": f"{word} it is."}]
        for word in ("one two three four five six seven eight nine ten " * 4).split()
    ]
    lines = [[*first, *second] for first in lines[:10] for second in lines[:4]]
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in lines))
    (tmp_path / "template.jinja").write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    return path


@pytest.fixture
def finetuning(base, chat_file, tmp_path):
    """Makes a run on conversations that has not taken a step."""

    def make(name="run", **sections):
        values = {
            "model": {"init_from": str(base)},
            "tokenizer": {"chat_template": str(tmp_path / "template.jinja")},
            "data": {
                "sources": [{"path": str(chat_file), "field": "messages"}],
                "held_out": 0.2,
                "context": 64,
                "batch_size": 4,
                "rows": "document",
            },
            "optimizer": {"lr": 3e-3},
            "schedule": SHORT,
            "run": {"sample_every": 0, "evaluate_every": 3, "save_every": 3},
            "machine": {"threads": 1},
        }
        return start_run(Recipe.from_dict(values | sections), RunFolder(tmp_path / name))

    return make


def losses(run):
    return [line["loss"] for line in read_metrics(run.folder.metrics)]


def test_a_chat_run_learns_and_keeps_its_template(finetuning):
    run = finetuning(schedule={"steps": 40})
    assert train(run)["held_out_loss"] < losses(run)[0] - 0.5
    assert "m.role" in (run.folder.checkpoint / "chat_template.jinja").read_text()
    input_ids, labels, _ = run.batches.batch(0)
    learned = run.tokenizer.decode(labels[0][labels[0] >= 0].tolist(), skip_special_tokens=False)
    assert learned.count(" it is.<|endoftext|>") == 2
    assert "Say" not in learned
    assert "Say" in run.tokenizer.decode(input_ids[0].tolist())


@pytest.fixture
def thirty_conversations(tmp_path, chat_file):
    """A file of conversations of some ten tokens each, between a human and a bot in `roles`."""

    def write(human="user", bot="assistant"):
        rows = [
            [{"role": human, "content": f"Say {number}."}, {"role": bot, "content": f"{number} it is, grün."}]
            for number in range(30)
        ]
        path = tmp_path / "thirty.jsonl"
        path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))
        return {"path": str(path), "field": "messages"}

    return write


def test_thirty_conversations_are_enough_where_rows_are_conversations(finetuning, thirty_conversations):
    data = {"context": 64, "batch_size": 4, "rows": "document", "held_out": 0.02, "sources": [thirty_conversations()]}
    run = finetuning(data=data)
    assert run.corpus.train_tokens < 64 * 30
    assert "held_out_loss" in train(run)
    with pytest.raises(DataError, match=r"less than one row of 2000.*lower data\.context.*or set data\.rows = "):
        build_corpus(
            DataSection(sources=(SourceSection(**thirty_conversations()),), context=2000),
            CorpusTokenizer.load(run.folder.checkpoint),
            seed=0,
        )


def test_the_bits_per_byte_of_a_chat_are_those_of_the_assistants_words(finetuning, thirty_conversations):
    data = {"context": 64, "batch_size": 4, "rows": "document", "held_out": 0.2, "sources": [thirty_conversations()]}
    run = finetuning(data=data)
    said = re.findall(r"assistant: ([^<]* it is, grün\.)", run.folder.held_out.read_text())
    assert len(said) == len(run.corpus.held_out[0].documents)
    held_out_bytes = sum(len(text.encode()) for text in said)
    assert count_bytes(run.corpus, run.tokenizer) == held_out_bytes
    last = train(run)
    nats = last["held_out_loss"] * run.corpus.held_out_tokens
    assert last["bits_per_byte"] == pytest.approx(nats / math.log(2) / held_out_bytes)


def test_a_chat_without_an_assistant_says_who_speaks_and_how_to_name_him(finetuning, thirty_conversations):
    data = {"context": 64, "batch_size": 4, "rows": "document", "held_out": 0.2}
    named = thirty_conversations("human", "bot")
    with pytest.raises(
        DataError,
        match=r"no token to train on; 30 conversations were skipped .*line \d+: nobody is 'assistant' \(the roles are "
        r"'human', 'bot'\).*such as roles = \{ bot = \"assistant\" \}",
    ):
        finetuning(data=data | {"sources": [named]})
    renamed = finetuning(data=data | {"sources": [named | {"roles": {"human": "user", "bot": "assistant"}}]})
    plain = finetuning("plain", data=data | {"sources": [thirty_conversations()]})
    assert renamed.corpus.fingerprint() == plain.corpus.fingerprint()


def test_a_validation_file_of_ones_own_is_all_that_is_held_out(finetuning, thirty_conversations, chat_file):
    sources = {"sources": [thirty_conversations()], "validation": [{"path": str(chat_file), "field": "messages"}]}
    run = finetuning(data={"context": 64, "batch_size": 4, "rows": "document", **sources})
    [source] = run.corpus.sources
    assert sum(len(stream.documents) for stream in source.train) == 30
    assert sum(len(stream.documents) for stream in run.corpus.held_out) == 40
    assert "held_out_loss" in train(run)
    tokenized = dict(run.recipe.to_dict()["data"], tokens=str(chat_file.parent / "tokens"))
    again = finetuning("again", data=tokenized)
    assert again.corpus.fingerprint() == run.corpus.fingerprint()
    assert again.corpus.held_out_tokens == run.corpus.held_out_tokens


def samples(run):
    [path] = (run.folder.path / "samples").iterdir()
    return path.read_text().strip().split("\n\n----\n\n")


def test_a_chat_run_samples_answers_to_a_held_out_question_or_to_the_recipes(finetuning):
    often = {"sample_every": 6, "evaluate_every": 0, "save_every": 0, "sample_tokens": 8}
    run = finetuning(run=often)
    train(run)
    [text] = samples(run)
    question, mark, _ = text.partition("assistant: ")
    assert mark
    assert question in run.folder.held_out.read_text()
    asked = finetuning("asked", run=often | {"sample_prompts": ["Who?", "Why?"]})
    train(asked)
    assert [text[:34] for text in samples(asked)] == [
        "user: Who?<|endoftext|>assistant: ",
        "user: Why?<|endoftext|>assistant: ",
    ]


LORA = {"rank": 4, "alpha": 8}


@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="requirements-extras.txt")


def test_fresh_adapters_change_nothing(finetuning, peft, base):
    run = finetuning(lora=LORA)
    input_ids = torch.arange(10).unsqueeze(0)
    with torch.inference_mode():
        torch.testing.assert_close(run.model(input_ids), load_checkpoint(base)(input_ids))


def test_the_checkpoint_of_adapters_is_an_ordinary_one_that_computes_the_same(finetuning, peft, base):
    from transformers import AutoModelForCausalLM

    run = finetuning(lora=LORA)
    frozen = {name: value.clone() for name, value in run.model.named_parameters() if not value.requires_grad}
    train(run)
    assert all(torch.equal(value, frozen[name]) for name, value in run.model.named_parameters() if name in frozen)
    saved, before = load_checkpoint(run.folder.checkpoint), load_checkpoint(base)
    assert saved.state_dict().keys() == before.state_dict().keys()
    input_ids = torch.arange(40).view(2, 20)
    theirs = AutoModelForCausalLM.from_pretrained(run.folder.checkpoint).eval()
    with torch.inference_mode():
        expected = run.model(input_ids)
        torch.testing.assert_close(saved(input_ids), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(theirs(input_ids).logits, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(before(input_ids), expected, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's use of transformers
def test_the_adapters_alone_load_in_peft_on_their_base(finetuning, peft, base):
    """And in `model.adapter`: the same model as the merged checkpoint."""
    from transformers import AutoModelForCausalLM

    from model.adapter import MergedAdapter

    run = finetuning(lora=LORA)
    train(run)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run.folder.adapter).eval()
    input_ids = torch.arange(40).view(2, 20)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(input_ids).logits, run.model(input_ids), rtol=1e-5, atol=1e-5)
    saved = load_checkpoint(run.folder.checkpoint)
    ours = MergedAdapter(run.folder.adapter)
    for name, weight in saved.named_parameters():
        torch.testing.assert_close(ours.tensor(name), weight.detach())


def test_merging_agrees_with_the_library_that_made_the_adapters(finetuning, peft):
    run = finetuning(lora=LORA)
    train(run)
    ours = merged(run.model)
    theirs = copy.deepcopy(run.model)
    for module in list(theirs.modules()):
        if hasattr(module, "merge") and hasattr(module, "base_layer"):
            module.merge()
    for name, weight in ours.named_parameters():
        other = dict(theirs.named_parameters())
        merged_there = other.get(name, other.get(name.replace(".weight", ".base_layer.weight")))
        torch.testing.assert_close(weight, merged_there)


def test_a_resumed_run_of_adapters_equals_an_undisturbed_one(finetuning, peft, monkeypatch):
    from train import loop

    undisturbed, stopped = finetuning("undisturbed", lora=LORA), finetuning("stopped", lora=LORA)
    train(undisturbed)
    taken = loop.training_step

    def die(run):
        if run.step == 4:
            raise KeyboardInterrupt
        return taken(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", die)
        with pytest.raises(KeyboardInterrupt):
            train(stopped)
    resumed = resume_run(stopped.folder)
    assert resumed.step == 3
    train(resumed)
    assert losses(resumed) == losses(undisturbed)
    weights = [(run.folder.checkpoint / "model.safetensors").read_bytes() for run in (resumed, undisturbed)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("lora", "complaint"),
    [({"projections": ["c_attn"]}, "the model has no c_attn; it has down_proj"), ({"rank": 0}, "lora.rank must be")],
)
def test_adapters_that_do_not_fit_are_an_error(finetuning, peft, lora, complaint):
    with pytest.raises(RecipeError, match=complaint):
        finetuning(lora=lora)


def test_adapters_go_with_a_checkpoint(tiny_recipe):
    with pytest.raises(RecipeError, match=r"lora needs model\.init_from"):
        Recipe.from_dict(tiny_recipe().to_dict() | {"lora": LORA})


def test_a_model_without_adapters_is_its_own_merger(finetuning):
    model = finetuning().model
    assert merged(model) is model


def test_a_checkpoint_of_another_architecture_is_an_error(finetuning, base, tmp_path):
    other = shutil.copytree(base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(ConfigError, match="model_type 'gpt2' is another architecture"):
        finetuning(model={"init_from": str(other)})
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_is_larger_than_the_checkpoint_is_an_error(finetuning, shared_data, tmp_path):
    with pytest.raises(RecipeError, match="has 49152 tokens, the model's vocabulary only 512"):
        finetuning(tokenizer={"path": str(shared_data / "smollm2-tokenizer")})
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_comes_from_the_hub_without_the_weights(finetuning, base, monkeypatch):
    def download(name, *, allow_patterns, **_):
        assert name == "somebody/theirs"
        assert not [pattern for pattern in allow_patterns if "safetensors" in pattern]
        return str(base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    tokenizer = dict(finetuning().recipe.to_dict()["tokenizer"], path="somebody/theirs")
    assert finetuning("other", tokenizer=tokenizer).tokenizer.get_vocab_size() == 500


def test_conversations_without_a_template_are_an_error_before_anything_is_written(finetuning, tmp_path):
    with pytest.raises(DataError, match=r"set tokenizer\.chat_template"):
        finetuning(tokenizer={})
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def fairy_tales(shared_data, tmp_path_factory):
    """stories260k after it has read the Grimms for a few steps, and its held-out loss before."""
    values = read_recipe("finetune-text").to_dict()
    values["model"]["init_from"] = str(shared_data / "stories260k")
    values["data"] |= {"root": str(shared_data / "corpora"), "context": 128, "held_out_tokens": 3000}
    values["schedule"] = {"steps": 16, "warmup_steps": 2, "decay_steps": 8}
    values["run"] |= {"sample_every": 16, "evaluate_every": 16}
    values["machine"]["threads"] = 1
    run = start_run(Recipe.from_dict(values), RunFolder(tmp_path_factory.mktemp("grimm") / "run"))
    before = held_out_loss(run.loss, run.corpus, run.recipe.data.context, run.ranks)
    return run, before, train(run)["held_out_loss"]


def test_stories260k_learns_from_the_fairy_tales(fairy_tales):
    run, before, after = fairy_tales
    assert run.tokenizer.id_to_token(run.corpus.separator) == "<s>"  # its tokenizer has no <|endoftext|>
    assert after < before - 0.2
    assert next((run.folder.path / "samples").iterdir()).read_text().strip()


def test_the_fine_tuned_checkpoint_loads_in_transformers(fairy_tales):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = fairy_tales[0].folder.checkpoint
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    input_ids = AutoTokenizer.from_pretrained(checkpoint)("Once upon a time", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        torch.testing.assert_close(
            theirs(input_ids).logits, load_checkpoint(checkpoint)(input_ids), rtol=1e-4, atol=1e-4
        )
    assert set(theirs.generation_config.eos_token_id) == {1, 2}


def test_the_fine_tuned_checkpoint_is_exported_and_runs(fairy_tales, tmp_path):
    from export.bundle import export_bundle
    from export.precisions import parse_precisions
    from model import Checkpoint
    from runtime import LanguageModel, SamplingOptions

    out = tmp_path / "bundle"
    checkpoint = Checkpoint(fairy_tales[0].folder.checkpoint)
    export_bundle(checkpoint, out, parse_precisions("fp32,int8"), source="test", progress=False)
    model = LanguageModel.load(out, precision="int8")
    assert model.generate("Once upon a time", SamplingOptions(max_new_tokens=20)).text.strip()
