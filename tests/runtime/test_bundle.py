"""A bundle that is not whole is refused with one line that names what is wrong."""

from __future__ import annotations

import importlib
import json
import sys

import pytest

from runtime import Bundle
from runtime.errors import BundleError, BundleNotFoundError, MissingDependencyError, OptionError, SmolTextError
from tests.runtime.files import edit_json


def test_a_bundle_tells_its_shape_its_precisions_and_its_special_tokens(tiny_bundle):
    bundle = Bundle.open(str(tiny_bundle))
    assert bundle.shape.vocab_size == 320
    assert bundle.shape.max_position_embeddings == 192
    assert list(bundle.precisions) == ["int8", "fp32"]
    assert bundle.default_precision == "int8"
    assert bundle.bos_token_id == 0
    assert bundle.eos_token_ids == {0, 2}
    assert bundle.has_in_place_cache
    assert bundle.model_file("fp32").name == "model.onnx"


@pytest.mark.parametrize("precision", ["q8", "INT8", "", "../model"])
def test_an_unknown_precision_is_refused_with_those_that_are_there(precision, tiny_bundle):
    with pytest.raises(OptionError, match=r"no precision .*; it has int8, fp32"):
        Bundle.open(tiny_bundle).model_file(precision)


@pytest.mark.parametrize("name", ["./nowhere", "../nowhere", "/nowhere/at/all", "no such folder", "a\0b", "x" * 5000])
def test_a_folder_that_is_not_there_is_not_found_without_asking_the_hub(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it would fail in other words
    with pytest.raises(BundleNotFoundError, match="there is no folder") as caught:
        Bundle.open(name)
    assert isinstance(caught.value, FileNotFoundError)


def test_a_hub_id_without_the_hub_package_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match="pip install huggingface_hub"):
        Bundle.open("someone/model")


@pytest.mark.parametrize("fault", ["RepositoryNotFoundError", "HFValidationError", "LocalEntryNotFoundError"])
def test_what_the_hub_refuses_is_a_bundle_error(fault, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    error = getattr(importlib.import_module("huggingface_hub.errors"), fault)

    def fail(*_, **__):
        raise error.__new__(error)

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(BundleError, match=r"folder someone/model.* Hub|folder nor a Hub"):
        Bundle.open("someone/model")


def test_a_file_is_no_bundle(tiny_bundle):
    with pytest.raises(BundleError, match="is a file; a bundle is a folder"):
        Bundle.open(tiny_bundle / "config.json")


def test_an_empty_folder_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"has no config\.json"):
        Bundle.open(tmp_path)


def test_a_folder_without_graphs_is_no_bundle(broken_bundle):
    for path in (broken_bundle / "onnx").iterdir():
        path.unlink()
    with pytest.raises(BundleError, match=r"no onnx/\*\.onnx; make one with"):
        Bundle.open(broken_bundle)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "not readable JSON"),
        (b"{", "not readable JSON"),
        (b'{"vocab_size": 3', "not readable JSON"),
        (b"\xff\xfe", "not readable JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"\xef\xbb\xbf{", "not readable JSON"),
        (b"[]", "holds a JSON list"),
        (b"7", "holds a JSON int"),
        (b"null", "holds a JSON NoneType"),
        (b"{}", "lacks 'num_attention_heads'"),
    ],
)
def test_a_broken_config_is_named(contents, words, broken_bundle):
    (broken_bundle / "config.json").write_bytes(contents)
    with pytest.raises(BundleError, match=rf"config\.json.*{words}"):
        Bundle.open(broken_bundle)


@pytest.mark.parametrize("name", ["vocab_size", "num_hidden_layers", "max_position_embeddings"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", [3], float("nan"), float("inf")])
def test_a_size_that_is_no_positive_integer_is_refused(name, value, broken_bundle):
    edit_json(broken_bundle / "config.json", **{name: value})
    with pytest.raises(BundleError, match=rf"config\.json: every size must be a positive integer: .*{name}="):
        Bundle.open(broken_bundle)


@pytest.mark.parametrize("changes", [{"hidden_size": "32"}, {"num_attention_heads": 0}, {"num_attention_heads": "2"}])
def test_sizes_that_cannot_be_divided_are_refused(changes, broken_bundle):
    edit_json(broken_bundle / "config.json", head_dim=None, **changes)
    with pytest.raises(BundleError, match="hidden_size and num_attention_heads must be numbers"):
        Bundle.open(broken_bundle)


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", ["<s>", -1, 2.5, {"a": 1}, [[1]], ["2"]])
def test_a_special_token_id_of_another_kind_is_refused(name, value, broken_bundle):
    edit_json(broken_bundle / "generation_config.json", **{name: value})
    with pytest.raises(BundleError, match=f"{name} must be a token id"):
        Bundle.open(broken_bundle)


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [5, 6]}, {"eos_token_id": 7}, {5, 6}),
        ({"eos_token_id": 5}, {"eos_token_id": 7}, {5}),
        ({}, {"eos_token_id": 7}, {7}),
        ({}, {}, set()),
    ],
)
def test_the_generation_config_has_the_first_word_on_special_tokens(generation, config, expected, broken_bundle):
    for name, changes in (("generation_config.json", generation), ("config.json", config)):
        edit_json(broken_bundle / name, **({"eos_token_id": None} | changes))
    assert Bundle.open(broken_bundle).eos_token_ids == expected


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "manifest.json"])
def test_a_byte_order_mark_changes_nothing(name, broken_bundle):
    before = Bundle.open(broken_bundle)
    path = broken_bundle / name
    path.write_bytes(b"\xef\xbb\xbf" + (path.read_bytes() if path.is_file() else b"{}"))
    assert Bundle.open(broken_bundle) == before


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(("name", "value"), [("eos_token_id", 320), ("eos_token_id", [2, 999]), ("bos_token_id", 320)])
def test_a_special_token_beyond_the_vocabulary_is_refused_by_name(file, name, value, broken_bundle):
    edit_json(broken_bundle / "generation_config.json", **{name: None})
    edit_json(broken_bundle / file, **{name: value})
    with pytest.raises(BundleError, match=rf"^{file}: {name} \d+ is beyond the model's vocabulary of 320 tokens"):
        Bundle.open(broken_bundle)


def test_the_last_row_of_the_vocabulary_can_end_a_text(broken_bundle):
    edit_json(broken_bundle / "generation_config.json", eos_token_id=319)
    assert Bundle.open(broken_bundle).eos_token_ids == {319}


def test_null_in_the_generation_config_leaves_the_word_to_the_config(broken_bundle):
    (broken_bundle / "generation_config.json").write_text('{"bos_token_id": null, "eos_token_id": null}')
    assert Bundle.open(broken_bundle).bos_token_id == 0
    assert Bundle.open(broken_bundle).eos_token_ids == {0, 2}


def test_a_file_that_was_cut_off_is_found_by_its_size(broken_bundle, tiny_bundle):
    (broken_bundle / "manifest.json").write_bytes((tiny_bundle / "manifest.json").read_bytes())
    path = broken_bundle / "onnx" / "model_int8.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    sizes = f"has {len(whole) - 100:,} bytes, the manifest says {len(whole):,}"
    with pytest.raises(BundleError, match=rf"model_int8\.onnx {sizes}.*cut off"):
        Bundle.open(broken_bundle)


def test_a_file_that_the_manifest_lists_must_be_there(broken_bundle, tiny_bundle):
    (broken_bundle / "manifest.json").write_bytes((tiny_bundle / "manifest.json").read_bytes())
    (broken_bundle / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"incomplete: its manifest lists tokenizer\.json"):
        Bundle.open(broken_bundle)


@pytest.mark.parametrize("files", [[], 3, {"config.json": 3}, {"config.json": {}}, {"config.json": {"bytes": "many"}}])
def test_a_broken_manifest_is_named(files, broken_bundle):
    edit_json(broken_bundle / "manifest.json", files=files)
    with pytest.raises(BundleError, match=r"manifest\.json is broken"):
        Bundle.open(broken_bundle)


def test_a_bundle_of_another_exporter_needs_no_manifest(broken_bundle):
    (broken_bundle / "manifest.json").unlink()
    bundle = Bundle.open(broken_bundle)
    assert not bundle.has_in_place_cache
    assert json.dumps(dict(bundle.manifest)) == "{}"


def test_every_error_is_also_the_built_in_one_that_a_caller_expects():
    from runtime import errors

    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not SmolTextError]
    assert len(classes) >= 7
    for kind in classes:
        assert issubclass(kind, SmolTextError)
        assert any(base.__module__ == "builtins" and base not in (Exception, object) for base in kind.__mro__[2:-3])
