"""Laws of token folders: the same bytes whoever makes them and however often they are killed, the same batches as from
memory, and never another recipe's."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from train.__main__ import main
from train.config import Recipe
from train.data.batches import Batches
from train.data.corpus import build_corpus
from train.data.shards import TokenFolder
from train.data.stories import stories
from train.errors import DataError
from train.run.folder import RunFolder
from train.setup import make_tokenizer, start_run

REPOSITORY = Path(__file__).parents[3]
SCRIPT = """
import sys, json, train.data.corpus, train.data.shards
from train.config import Recipe
from train.data.tokenizer import CorpusTokenizer
train.data.corpus.CHUNK_CHARACTERS = train.data.shards.CHUNK_CHARACTERS = 2000
recipe = Recipe.from_dict(json.loads(sys.argv[1]))
tokenizer = CorpusTokenizer.load(recipe.tokenizer.path, recipe.tokenizer)

if __name__ == "__main__":
    train.data.shards.TokenFolder(sys.argv[2]).make(recipe.data, tokenizer, 0, workers=int(sys.argv[3]))
"""


@pytest.fixture
def small_chunks(monkeypatch):
    """Shards of a few stories each."""
    monkeypatch.setattr("train.data.corpus.CHUNK_CHARACTERS", 2000)
    monkeypatch.setattr("train.data.shards.CHUNK_CHARACTERS", 2000)


@pytest.fixture
def recipe(tiny_recipe, tmp_path):
    """Of a text file, and of conversations in which half is learned."""
    told = stories(seed=0)
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": next(told)}) + "\n" for _ in range(200)))
    chats = [[{"role": "user", "content": next(told)}, {"role": "assistant", "content": "Yes."}] for _ in range(50)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    (tmp_path / "template.jinja").write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    trained = tmp_path / "tokenizer"
    assert main(["tokenizer", "stories", "--documents", "100", "--vocab-size", "400", "--out", str(trained)]) == 0
    sources = [{"path": "text.jsonl", "weight": 2}, {"path": "chat.jsonl", "field": "messages", "weight": 1}]
    return tiny_recipe(
        data={"documents": 2, "root": str(tmp_path), "sources": sources, "held_out": 0.1},
        tokenizer={"path": str(trained), "chat_template": str(tmp_path / "template.jinja")},
    )


def make(recipe, path, **options):
    folder = TokenFolder(path)
    folder.make(recipe.data, make_tokenizer(recipe), 0, progress=False, **options)
    return folder


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


def batches(corpus, recipe):
    drawn = Batches(corpus.sources, recipe.data, seed=3)
    return [part for step in range(30) for part in drawn.batch(step)[:2]]


def test_shards_give_the_batches_that_memory_gives(recipe, tmp_path, small_chunks):
    tokenizer = make_tokenizer(recipe)
    folder = make(recipe, tmp_path / "tokens")
    assert len(list((tmp_path / "tokens" / "shards").glob("000-*.json"))) > 10
    mapped, in_memory = folder.corpus(recipe.data, tokenizer, 0), build_corpus(recipe.data, tokenizer, 0)
    assert mapped.fingerprint() == in_memory.fingerprint()
    assert mapped.held_out_texts(tokenizer.tokenizer) == in_memory.held_out_texts(tokenizer.tokenizer)
    pairs = zip(batches(mapped, recipe), batches(in_memory, recipe), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_killed_run_goes_on_and_leaves_the_same_bytes(recipe, tmp_path, small_chunks):
    undisturbed = make(recipe, tmp_path / "undisturbed")
    command = [sys.executable, "-c", SCRIPT, json.dumps(recipe.to_dict()), str(tmp_path / "killed"), "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    shards = tmp_path / "killed" / "shards"
    while len(list(shards.glob("*.json"))) < 4 and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in shards.glob("*.json")}
    assert not (tmp_path / "killed" / "index.json").exists()
    make(recipe, tmp_path / "killed")
    assert files(tmp_path / "killed") == files(undisturbed.path)
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())


def test_several_workers_leave_the_same_bytes(recipe, tmp_path, small_chunks):
    alone, several = (make(recipe, tmp_path / str(workers), workers=workers) for workers in (1, 2))
    assert files(alone.path) == files(several.path)


def test_limits_leave_the_same_tokens_for_any_number_of_workers(recipe, tmp_path, small_chunks, monkeypatch):
    monkeypatch.setattr("train.data.corpus.MIN_CHUNK_CHARACTERS", 2000)
    values = recipe.to_dict()
    first, second = values["data"]["sources"]
    values["data"]["sources"] = [first | {"max_tokens": 3000}, second | {"max_documents": 20}]
    limited = Recipe.from_dict(values)
    tokenizer = make_tokenizer(limited)
    in_memory = build_corpus(limited.data, tokenizer, 0)
    whole = build_corpus(recipe.data, tokenizer, 0)
    texts, chats = in_memory.sources
    assert 2700 < texts.train_tokens <= 3000
    assert sum(len(stream.documents) for stream in (*chats.train, *chats.held_out)) == 20
    learned = [ids for source in (texts, whole.sources[0]) for stream in source.train for ids in stream.texts()]
    count = sum(len(stream.documents) for stream in texts.train)
    assert learned[:count] == learned[count : 2 * count]  # the first documents, in their order
    for workers in (1, 2):
        folder = make(limited, tmp_path / str(workers), workers=workers)
        assert folder.corpus(limited.data, tokenizer, 0).fingerprint() == in_memory.fingerprint()
        assert folder.index()["sources"][0]["train_tokens"] == texts.train_tokens


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent(recipe, tmp_path, number):
    script = tmp_path / "tokenize_it.py"  # workers import their parent's main module
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), json.dumps(recipe.to_dict()), str(tmp_path / "killed"), "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    shards = tmp_path / "killed" / "shards"
    while not list(shards.glob("*.json")) and process.poll() is None:
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.is_file():
        process.kill()
        pytest.skip("this system does not tell a process's children")
    pids = children.read_text().split()
    process.send_signal(number)
    process.wait()
    assert len(pids) >= 2
    deadline = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in pids if is_running(pid)]


def is_running(pid):
    """Whether a process exists and is not a zombie that its new parent has yet to collect."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_needs_no_torch():
    script = "import sys, train.data.shards; assert not {'torch', 'jinja2', 'pyarrow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_run_makes_the_folder_once_and_then_reads_it(recipe, tmp_path):
    values = recipe.to_dict()
    values["data"]["tokens"] = str(tmp_path / "tokens")
    run = start_run(Recipe.from_dict(values), RunFolder(tmp_path / "run"))  # makes the folder
    assert run.corpus.fingerprint() == build_corpus(recipe.data, make_tokenizer(recipe), 0).fingerprint()
    before = files(tmp_path / "tokens")
    start_run(Recipe.from_dict(values), RunFolder(tmp_path / "again"))  # reads it
    assert files(tmp_path / "tokens") == before


def test_tokenize_says_what_it_made(tmp_path, capsys):
    arguments = ["tokenize", "stories-tiny", "--out", str(tmp_path / "tokens"), "--set", "data.documents=200", "--json"]
    for _ in range(2):
        assert main(arguments) == 0
        [source] = json.loads(capsys.readouterr().out)["sources"]
        assert (source["name"], source["documents"]) == ("stories", 200)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [({"held_out": 0.2}, "held_out differs"), ({"sources": [{"path": "text.jsonl"}]}, "sources differs")],
)
def test_a_folder_of_other_data_is_an_error(recipe, tmp_path, changes, complaint):
    make(recipe, tmp_path / "tokens")
    values = recipe.to_dict()
    values["data"] |= changes
    with pytest.raises(DataError, match=complaint):
        make(Recipe.from_dict(values), tmp_path / "tokens")


def test_a_source_that_changed_is_an_error_and_one_that_is_gone_is_not(recipe, tmp_path):
    folder = make(recipe, tmp_path / "tokens")
    tokenizer = make_tokenizer(recipe)
    (tmp_path / "chat.jsonl").unlink()
    folder.corpus(recipe.data, tokenizer, 0)
    (tmp_path / "text.jsonl").write_text('{"text": "other"}\n')
    with pytest.raises(DataError, match=r"text\.jsonl differs"):
        folder.corpus(recipe.data, tokenizer, 0)


def test_a_folder_of_something_else_is_left_alone(recipe, tmp_path):
    with pytest.raises(DataError, match="is not a folder of tokens"):
        make(recipe, tmp_path)


def test_a_cut_off_shard_is_an_error(recipe, tmp_path):
    folder = make(recipe, tmp_path / "tokens")
    path = next((tmp_path / "tokens" / "shards").glob("*.train.tokens.npy"))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="missing or truncated"):
        folder.corpus(recipe.data, make_tokenizer(recipe), 0)
