"""A GGUF file and the folder of the same model give the same bundle, by the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.__main__ import main
from runtime import Bundle
from runtime.text.chat_template import ChatTemplate
from tests.family import LLAMA, make_checkpoint
from tests.gguf_files import sentencepiece_metadata, write_gguf

pytest.importorskip("gguf", reason="GGUF files need the package gguf")


def graphs(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (bundle / "onnx").iterdir()}


@pytest.fixture
def gguf_file(tmp_path, shared_data):
    theirs = make_checkpoint(tmp_path / "theirs", LLAMA | {"vocab_size": 512})
    tokenizer = shared_data / "stories260k" / "tokenizer.json"
    (tmp_path / "theirs" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    metadata = sentencepiece_metadata(tokenizer, bos_token_id=1, eos_token_id=2, padding_token_id=0)
    metadata |= {"general.sampling.temp": 0.25, "general.sampling.top_k": 7}
    metadata["tokenizer.chat_template"] = "{{ bos_token }}{{ messages[0]['content'] }}"
    return write_gguf(tmp_path / "model.gguf", theirs, metadata=metadata)


def test_a_gguf_file_gives_the_bundle_of_its_folder(gguf_file, tmp_path):
    for source, out in ((gguf_file, "a"), (tmp_path / "theirs", "b")):
        assert main(["run", str(source), "--out", str(tmp_path / out), "--precisions", "fp32,int8"]) == 0
    assert graphs(tmp_path / "a") == graphs(tmp_path / "b")
    bundle = Bundle.open(tmp_path / "a")
    assert bundle.generation_defaults == {"temperature": 0.25, "top_k": 7}
    assert bundle.eos_token_ids == {2}
    template = ChatTemplate(bundle)
    assert template.render([{"role": "user", "content": "Hello"}]) == "<s>Hello"


def test_a_given_tokenizer_replaces_the_files(gguf_file, tmp_path):
    out = tmp_path / "bundle"
    arguments = ["--out", str(out), "--precisions", "fp32", "--no-compare", "--tokenizer", str(tmp_path / "theirs")]
    assert main(["run", str(gguf_file), *arguments]) == 0
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "theirs" / "tokenizer.json").read_bytes()
    assert not (out / "tokenizer_config.json").exists()


def test_a_broken_file_fails_in_one_line(tmp_path, capsys):
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00")
    assert main(["run", str(tmp_path / "model.gguf"), "--out", str(tmp_path / "bundle")]) == 1
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_the_real_model_gives_the_bundle_of_its_folder(real_gguf, real_model, tmp_path):
    for source, out in ((real_gguf, "a"), (real_model, "b")):
        arguments = ["--out", str(tmp_path / out), "--precisions", "fp32,int8", "--no-compare"]
        assert main(["run", str(source), *arguments]) == 0
    assert graphs(tmp_path / "a") == graphs(tmp_path / "b")
