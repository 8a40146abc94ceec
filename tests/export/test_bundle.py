"""A bundle is whole or it is not there, and it says what is in it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.__main__ import main
from export.bundle import export_bundle
from export.coverage import Coverage
from export.errors import ExportError
from export.manifest import changed_files, read_manifest
from export.precisions import WEIGHTS, parse_precisions
from model import Checkpoint, CheckpointError
from runtime import Bundle, LanguageModel, SamplingOptions
from runtime.errors import BundleError, PromptError
from runtime.precisions import PRECISIONS
from tests.export.graphs import make_checkpoint
from tests.goldens.make_tiny_bundle import VOCAB_SIZE, make_tokenizer
from tests.runtime.files import edit_json


@pytest.fixture
def checkpoint_folder(tmp_path):
    folder = tmp_path / "checkpoint"
    make_checkpoint(folder, {"vocab_size": VOCAB_SIZE, "bos_token_id": 0, "eos_token_id": 0})
    make_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def export(folder, out, precisions: str = "fp32,int8,q8", **options):
    return export_bundle(
        Checkpoint(folder), out, parse_precisions(precisions), source="test", progress=False, **options
    )


def test_a_bundle_holds_what_its_manifest_lists_and_nothing_else(checkpoint_folder, tmp_path):
    out = tmp_path / "bundle"
    manifest = export(checkpoint_folder, out)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {*manifest["files"], "manifest.json"}
    assert files >= {"config.json", "generation_config.json", "tokenizer.json", "README.md"}
    assert changed_files(out, read_manifest(out)) == []
    assert {entry["file"] for entry in manifest["precisions"].values()} == {
        f"onnx/{PRECISIONS[name].file}" for name in ("fp32", "int8", "q8")
    }
    for entry in manifest["precisions"].values():
        assert entry["file_bytes"] == (out / entry["file"]).stat().st_size
        assert entry["vocabulary_tables"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"intermediate_size": VOCAB_SIZE},
        {"num_attention_heads": 12, "num_key_value_heads": 4},  # packed, queries, keys and values have 320 rows
        {"hidden_size": VOCAB_SIZE, "tie_word_embeddings": False},
        {"max_position_embeddings": VOCAB_SIZE, "learned_position_embeddings": True},
    ],
    ids=str,
)
def test_other_matrices_may_have_as_many_rows_as_the_vocabulary(changes, tmp_path):
    config = {"vocab_size": VOCAB_SIZE, "bos_token_id": 0, "eos_token_id": 0}
    make_checkpoint(tmp_path / "checkpoint", config | changes)
    make_tokenizer().save(str(tmp_path / "checkpoint" / "tokenizer.json"))
    for precisions, portable in (("fp32,fp16,int8,q8,q4", False), ("fp32,fp16,int8,q8", True)):
        manifest = export(
            tmp_path / "checkpoint", tmp_path / "bundle", precisions, portable=portable, calibration_tokens=0
        )
        tables = {name: entry["vocabulary_tables"] for name, entry in manifest["precisions"].items()}
        assert set(tables.values()) == {1 if changes.get("tie_word_embeddings", True) else 2}, tables


def test_a_table_that_is_copied_is_an_error_of_its_own_words(checkpoint_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("export.bundle.measure_coverage", lambda _: Coverage({"int8": 1}, vocabulary_tables=2))
    with pytest.raises(ExportError, match=r"int8 would hold 2 vocabulary tables"):
        export(checkpoint_folder, tmp_path / "bundle", "int8")
    assert not (tmp_path / "bundle").exists()


def test_two_exports_of_one_checkpoint_are_the_same_bytes(checkpoint_folder, tmp_path):
    first, second = (export(checkpoint_folder, tmp_path / name) for name in ("a", "b"))
    assert first["files"] == second["files"]


def test_large_weights_lie_beside_the_graph_and_give_the_same_text(checkpoint_folder, tmp_path, monkeypatch):
    export(checkpoint_folder, tmp_path / "embedded")
    monkeypatch.setattr("export.bundle.EMBEDDED_BYTES", 0)
    export(checkpoint_folder, tmp_path / "external")
    config = json.loads((tmp_path / "external" / "config.json").read_text())
    greedy = SamplingOptions(temperature=0)
    for precision in ("fp32", "int8", "q8"):
        file = PRECISIONS[precision].file
        assert (tmp_path / "external" / "onnx" / f"{file}_data").is_file()
        assert config["transformers.js_config"]["use_external_data_format"][file] is True
        embedded, external = (
            LanguageModel.load(tmp_path / name, precision=precision).generate("The cat", greedy).token_ids
            for name in ("embedded", "external")
        )
        assert embedded == external


def test_every_precision_is_listed_once_and_has_a_file():
    assert {*WEIGHTS, "auto"} == {row.weights for row in PRECISIONS.values()}
    assert [precision.name for precision in parse_precisions("q8, fp32,q8")] == ["q8", "fp32"]


@pytest.mark.parametrize("names", ["int9", "", "fp32,none", ","])
def test_an_unknown_precision_names_the_known_ones(names):
    with pytest.raises(ExportError, match="int8"):
        parse_precisions(names)


@pytest.mark.parametrize("embedded_bytes", [0, 2**30], ids=["external", "embedded"])
@pytest.mark.parametrize("precision", ["fp32", "int8", "q8"])
def test_broken_weights_leave_no_bundle(checkpoint_folder, tmp_path, monkeypatch, precision, embedded_bytes):
    monkeypatch.setattr("export.bundle.EMBEDDED_BYTES", embedded_bytes)
    path = checkpoint_folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="down_proj"):
        export(checkpoint_folder, tmp_path / "bundle", precision)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["checkpoint"]


def test_weights_beyond_the_range_of_float16_are_refused_for_fp16_alone(checkpoint_folder, tmp_path):
    path = checkpoint_folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = 1e5
    save_file(tensors, path)
    export(checkpoint_folder, tmp_path / "fp32", "fp32,int8")
    with pytest.raises(ExportError, match=r"down_proj.*float16"):
        export(checkpoint_folder, tmp_path / "fp16", "fp16")


def test_a_tokenizer_model_alone_names_the_command_that_converts_it(checkpoint_folder, tmp_path):
    (checkpoint_folder / "tokenizer.json").rename(checkpoint_folder / "tokenizer.model")
    with pytest.raises(ExportError, match=r"tokenizer\.model and no tokenizer\.json.*LlamaTokenizer") as raised:
        export(checkpoint_folder, tmp_path / "bundle")
    assert str(checkpoint_folder) in str(raised.value).partition("python -c")[2]
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("ids", [VOCAB_SIZE, [0, VOCAB_SIZE + 7], -1, "</s>"], ids=str)
def test_an_end_of_text_beyond_the_vocabulary_is_refused(ids, checkpoint_folder, tmp_path):
    (checkpoint_folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    with pytest.raises(
        BundleError, match=r"generation_config\.json: eos_token_id .*(beyond the model's|must be a token)"
    ):
        export(checkpoint_folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_an_interrupted_export_leaves_the_bundle_that_was_there(checkpoint_folder, tmp_path, monkeypatch, error):
    out = tmp_path / "bundle"
    before = export(checkpoint_folder, out)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("export.bundle.measure_coverage", fail)
    with pytest.raises(type(error)):
        export(checkpoint_folder, out)
    assert read_manifest(out) == before
    assert changed_files(out, before) == []
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bundle", "checkpoint"]


def test_a_graph_that_computes_something_else_is_refused(checkpoint_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("export.graph.rotary_angles", lambda _: torch.zeros(64, 8))
    assert main(["run", str(checkpoint_folder), "--out", str(tmp_path / "bundle")]) == 1
    assert "does not compute what PyTorch computes" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_a_tokenizer_of_another_model_is_refused(checkpoint_folder, tmp_path):
    content = json.loads((checkpoint_folder / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {f"extra{number}": VOCAB_SIZE + number for number in range(50)}
    (checkpoint_folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match="another model"):
        export(checkpoint_folder, tmp_path / "bundle")


@pytest.mark.parametrize(
    "options", [{"temperature": 5.0, "top_p": 1.0}, {"temperature": 0}, {"regex": "[a-z ]+"}], ids=str
)
def test_rows_beyond_the_tokenizer_are_never_drawn(options, tmp_path):
    """A table of 5,000 rows for a tokenizer of a few hundred: nearly every row has no text."""
    if "regex" in options:
        pytest.importorskip("llguidance")
    make_checkpoint(tmp_path / "padded", {"vocab_size": 5000, "bos_token_id": 0, "eos_token_id": 0})
    tokenizer = make_tokenizer()
    tokenizer.save(str(tmp_path / "padded" / "tokenizer.json"))
    export(tmp_path / "padded", tmp_path / "bundle", "fp32")
    model = LanguageModel.load(tmp_path / "bundle")
    for seed in range(3):
        result = model.generate("a", SamplingOptions(seed=seed, max_new_tokens=30, stop_token_ids=(), **options))
        assert result.new_tokens > 1
        assert max(result.token_ids) < tokenizer.get_vocab_size()
    with pytest.raises(PromptError, match=r"0\.\.4999"):
        model.generate([5000])


def test_a_token_added_to_the_tokenizer_alone_runs_and_cannot_be_fed(checkpoint_folder, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens([f"<|added {number}|>" for number in range(VOCAB_SIZE)])
    tokenizer.save(str(checkpoint_folder / "tokenizer.json"))
    export(checkpoint_folder, tmp_path / "bundle", "fp32")
    model = LanguageModel.load(tmp_path / "bundle")
    assert model.generate("a", SamplingOptions(max_new_tokens=3, stop_token_ids=())).new_tokens == 3
    with pytest.raises(PromptError, match=r"added to the tokenizer and not to the model"):
        model.generate(f"a<|added {VOCAB_SIZE - 1}|>")


def test_what_is_no_bundle_is_never_replaced(checkpoint_folder, tmp_path):
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="no bundle"):
        export(checkpoint_folder, out)
    with pytest.raises(ExportError, match="checkpoint itself"):
        export(checkpoint_folder, checkpoint_folder)
    with pytest.raises(ExportError, match="is a file"):
        export(checkpoint_folder, out / "thesis.txt")
    assert (out / "thesis.txt").read_text() == "years of work"


def test_inspect_finds_one_changed_byte(checkpoint_folder, tmp_path, capsys):
    out = tmp_path / "bundle"
    export(checkpoint_folder, out)
    assert main(["inspect", str(out)]) == 0
    assert "all files are whole" in capsys.readouterr().out
    path = out / "onnx" / "model_int8.onnx"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert main(["inspect", str(out)]) == 1
    assert "model_int8.onnx" in capsys.readouterr().err


def test_inspect_shows_sampling_defaults_and_their_file(checkpoint_folder, tmp_path, capsys):
    out = tmp_path / "bundle"
    export(checkpoint_folder, out, "fp32")
    main(["inspect", str(out)])
    assert "no sampling defaults in generation_config.json" in capsys.readouterr().out
    edit_json(checkpoint_folder / "generation_config.json", do_sample=True, temperature=0.6, max_length=4096)
    export(checkpoint_folder, out, "fp32")
    main(["inspect", str(out)])
    assert "sampling defaults in generation_config.json: temperature 0.6, max_length 4096;" in capsys.readouterr().out
    main(["inspect", str(out), "--json"])
    assert json.loads(capsys.readouterr().out) == read_manifest(out) | {
        "sampling_defaults": {"file": "generation_config.json", "options": {"temperature": 0.6, "max_length": 4096}}
    }


def test_a_cut_off_graph_is_found_on_opening(checkpoint_folder, tmp_path):
    out = tmp_path / "bundle"
    export(checkpoint_folder, out)
    path = out / "onnx" / "model_int8.onnx"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cut off"):
        Bundle.open(out)


@pytest.mark.parametrize(
    ("generation", "words"),
    [
        ({"eos_token_id": VOCAB_SIZE}, f"eos_token_id {VOCAB_SIZE} is beyond the model's vocabulary of {VOCAB_SIZE}"),
        ({"bos_token_id": 10**9}, f"bos_token_id {10**9} is beyond"),
        ({"temperature": "hot"}, "temperature must be a number"),
    ],
)
def test_a_generation_config_that_cannot_be_honoured_is_refused(generation, words, checkpoint_folder, tmp_path):
    (checkpoint_folder / "generation_config.json").write_text(json.dumps(generation))
    with pytest.raises(BundleError, match=f"^generation_config.json: {words}"):
        export(checkpoint_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
