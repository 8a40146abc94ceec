import re
from pathlib import Path

import pytest

from model import ModelConfig
from train.config import RECIPES_FOLDER, Recipe, read_recipe
from train.errors import RecipeError

MINIMAL = '[model]\npreset = "tiny"\n[schedule]\nsteps = 100\n'


@pytest.fixture
def recipe_file(tmp_path):
    def write(text):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("path", sorted(RECIPES_FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_in_the_tree_reads_by_its_bare_name(path):
    assert read_recipe(path.stem) == read_recipe(str(path)) == read_recipe(path.name)


def test_a_recipe_survives_the_way_through_plain_values():
    recipe = read_recipe("stories-tiny")
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_overrides_are_read_as_toml_and_else_as_text(recipe_file):
    overrides = [
        "optimizer.lr=1e-3",
        "optimizer.betas=[0.8, 0.9]",
        "data.source=book.txt",
        "model.overrides.head_dim=16",
    ]
    recipe = read_recipe(recipe_file(MINIMAL), overrides)
    assert (recipe.optimizer.lr, recipe.optimizer.betas) == (1e-3, (0.8, 0.9))
    assert (recipe.data.source, recipe.model.overrides) == ("book.txt", {"head_dim": 16})


WITH_PATHS = """
[tokenizer]
path = "../tokenizers/mine"
[data]
root = "texts"
[[data.sources]]
path = "book.txt"
"""


def test_paths_in_a_recipe_begin_where_the_recipe_is(recipe_file, tmp_path, monkeypatch):
    """So a recipe, and the run that records it, can be used from every folder."""
    path = recipe_file(MINIMAL + WITH_PATHS)
    read = []
    for folder in (tmp_path, tmp_path.parent):
        monkeypatch.chdir(folder)
        read.append(read_recipe(path))
    assert read[0] == read[1]
    assert read[0].data.root == str(tmp_path / "texts")
    assert read[0].tokenizer.path == str(tmp_path.parent / "tokenizers" / "mine")


def test_text_that_an_override_names_replaces_the_recipes_and_begins_here(recipe_file, tmp_path, monkeypatch):
    path = recipe_file(MINIMAL + WITH_PATHS)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    data = read_recipe(path, ["data.source=novel.txt"]).data
    assert (data.source, data.sources, data.root) == ("novel.txt", (), str(elsewhere))
    data = read_recipe(path, ['data.sources=[{path="novel.txt"}]', "data.root=novels"]).data
    assert ([source.path for source in data.sources], data.root) == (["novel.txt"], str(elsewhere / "novels"))
    assert read_recipe(path, ["data.root=novels"]).data.sources[0].path == "book.txt"
    assert read_recipe(path).data.root == str(tmp_path / "texts")


def test_the_text_of_our_own_recipes_begins_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_recipe("finetune-chat").data.root == str(tmp_path)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ('[preference]\nreference = "../base"\n[data]\nrows = "pairs"', "reference"),
        ('[distillation]\nteacher = "../base"', "teacher"),
    ],
)
def test_another_model_that_a_recipe_names_is_found_beside_the_recipe(recipe_file, tmp_path, monkeypatch, table, key):
    text = f'[model]\ninit_from = "base"\n[schedule]\nsteps = 1\n{table}\n'
    if key == "reference":
        text += '[[data.sources]]\npath = "a.jsonl"\nfield = "chosen"\nrejected_field = "rejected"\n'
    path = recipe_file(text)
    monkeypatch.chdir("/")
    recipe = read_recipe(path)
    assert getattr(recipe.preference or recipe.distillation, key) == str(tmp_path.parent / "base")


def test_a_hub_id_is_no_path(recipe_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["model.init_from=HuggingFaceTB/SmolLM2-135M", "tokenizer.path=HuggingFaceTB/SmolLM2-135M"]
    recipe = read_recipe(recipe_file("[model]\n[schedule]\nsteps = 1\n"), overrides)
    assert recipe.model.init_from == recipe.tokenizer.path == "HuggingFaceTB/SmolLM2-135M"
    (tmp_path / "HuggingFaceTB" / "SmolLM2-135M").mkdir(parents=True)
    recipe = read_recipe(recipe_file("[model]\n[schedule]\nsteps = 1\n"), overrides)
    assert recipe.model.init_from == str(tmp_path / "HuggingFaceTB" / "SmolLM2-135M")


@pytest.mark.parametrize("name", ["corpora-10m", "finetune-text"])
def test_our_recipes_find_the_shared_data_from_every_folder(name, shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(name)
    assert Path(recipe.data.root) == (shared_data / "corpora").resolve()
    assert Path(recipe.tokenizer.path or recipe.model.init_from).is_dir()


def test_whole_numbers_serve_as_floats(recipe_file):
    assert read_recipe(recipe_file(MINIMAL), ["optimizer.weight_decay=0"]).optimizer.weight_decay == 0.0


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("optimizer.learning=1", "unknown key optimizer.learning; known are betas, eps, lr"),
        ("optimizer.weight_deca=1", "unknown key optimizer.weight_deca; did you mean optimizer.weight_decay?"),
        ("optimiser.lr=1", "unknown key optimiser; did you mean optimizer?"),
        ("optimizer.lr=fast", "optimizer.lr must be a number, not 'fast'"),
        ("optimizer.lr=0", "optimizer.lr must lie between 0 and 1"),
        ("optimizer.lr=nan", "optimizer.lr must lie between 0 and 1"),
        ("optimizer.betas=[0.9]", "optimizer.betas must be two numbers"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas must lie"),
        ("schedule.steps=1.5", "schedule.steps must be a whole number"),
        ("schedule.steps=true", "schedule.steps must be a whole number"),
        ("schedule.steps=0", "schedule needs one of steps, tokens, epochs, hours, and has none"),
        ("schedule.decay_share=1.5", "schedule.decay_share is a share"),
        ("schedule.hours=-1", "schedule.hours must not be negative"),
        ("run.tracker=clearml", "run.tracker must be none, wandb or trackio, not 'clearml'"),
        ("model.dropout=1", "model.dropout is a share, from 0 to below 1"),
        ("schedule.warmup_steps=101", "exceed the 100 steps"),
        ("run.save_every=-1", "run.save_every must not be negative"),
        ("run.keep_last=0", "run.keep_last must be at least 1"),
        ("run.threads=2", "unknown key run.threads; known are evaluate_every"),
        ("optimizer.name=sgd", "optimizer.name must be adamw or muon, not 'sgd'"),
        ("optimizer.on_non_finite=pray", "optimizer.on_non_finite must be stop or skip"),
        ("optimizer.z_loss=-1", "optimizer.z_loss must not be negative"),
        ("schedule.decay=sudden", "schedule.decay must be linear or cosine"),
        ("schedule.final=2", "schedule.final is a share"),
        ("machine.precision=fp8", "machine.precision must be auto, fp32, tf32, bf16 or fp16, not 'fp8'"),
        ("machine.sharding=zero", "machine.sharding must be ddp or fsdp"),
        ("machine.micro_batch_size=-1", "machine.micro_batch_size must not be negative"),
        ("data.held_out=1", "data.held_out is a share"),
        ("data.source=1", "data.source must be a text"),
        ("data.rows=diagonal", "data.rows must be packed, document, isolated or pairs, not 'diagonal'"),
        ("data.sources=book.txt", "data.sources must be a list"),
        ("data.sources=[{}]", "a source needs one of path and hub"),
        ('data.sources=[{path="a", hub="b"}]', "a source needs one of path and hub"),
        (
            'data.sources=[{path="a", pathh="b"}]',
            "unknown key data.sources[0].pathh; did you mean data.sources[0].path?",
        ),
        ('data.sources=[{path="a", weight=0}]', "weight must be positive"),
        ('data.sources=[{path="a", weight=1}, {path="b"}]', "all have a weight, or none"),
        ('data.sources=[{path="a", separator_pattern="("}]', "'(' is not a regular expression"),
        ("tokenizer.vocab_size=100", "tokenizer.vocab_size must be above 256"),
        ("model.init_from=somewhere", "model needs one of preset and init_from"),
        ("model=tiny", "--set wants section.key=value"),
        ("optimizer.lr", "--set wants section.key=value"),
        ("optimizer.lr.x=1", "must be a number, not"),
        ("model.preset.x=1", "preset is not a section"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_an_error_that_says_where(recipe_file, override, complaint):
    with pytest.raises(RecipeError) as error:
        read_recipe(recipe_file(MINIMAL), [override])
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "model is missing"),
        ('[model]\npreset = "tiny"\n', "schedule is missing"),
        ('[model]\npreset = "tiny"\n[schedule]\n', "schedule needs one of steps, tokens, epochs, hours, and has none"),
        ("[model\n", "not readable TOML"),
        ("model = 3\n[schedule]\nsteps = 1\n", "model must be a section of keys"),
    ],
)
def test_an_incomplete_recipe_is_an_error(recipe_file, text, complaint):
    with pytest.raises(RecipeError, match=complaint):
        read_recipe(recipe_file(text))


def test_the_recipe_in_the_readme_reads(recipe_file):
    readme = (RECIPES_FOLDER.parents[1] / "README.md").read_text()
    [table] = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    data = read_recipe(recipe_file(MINIMAL + table)).data
    assert (len(data.sources), len(data.validation), data.has_streams) == (3, 1, True)


def test_a_missing_recipe_names_those_that_there_are():
    with pytest.raises(RecipeError, match=r"there is no recipe novel\.toml; .* stories-tiny"):
        read_recipe("novel.toml")


def test_smollm2_is_trained_as_published():
    """The seed's nanotron configuration says the same: see config_smollm2_135M.json."""
    recipe = read_recipe("smollm2-135m")
    assert (recipe.optimizer.lr, recipe.optimizer.betas, recipe.optimizer.weight_decay) == (3e-3, (0.9, 0.95), 0.01)
    assert recipe.optimizer.max_grad_norm == 1.0
    assert (recipe.schedule.steps, recipe.schedule.warmup_steps) == (2_000_000, 2000)
    assert recipe.schedule.decay_steps == recipe.schedule.steps / 5
    assert (recipe.data.context, recipe.data.batch_size) == (2048, 64 * 8)
    assert ModelConfig.from_preset("smollm2-135m").initializer_range == pytest.approx(1 / 24)


def test_the_seeds_run_is_five_thousand_steps_and_fifty_more():
    recipe = read_recipe("smoltextgen-135m")
    assert (recipe.schedule.steps, recipe.run.sample_every) == (5050, 500)
    assert 5000 % recipe.run.save_every == 0
