"""Bundles to break, and models to run."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime import LanguageModel
from runtime.__main__ import main
from runtime.engine.session import DecoderSession
from runtime.text.tokenizer import Tokenizer
from tests.runtime.files import edit_json


@pytest.fixture(scope="session")
def tiny_model(tiny_bundle: Path) -> LanguageModel:
    return LanguageModel.load(tiny_bundle, precision="fp32", threads=1)


@pytest.fixture
def broken_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle to break. Its manifest lists no files, so that what is broken is not found by size."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    edit_json(folder / "manifest.json", files={})
    return folder


@pytest.fixture(scope="session")
def tokenizers(tiny_bundle: Path, request: pytest.FixtureRequest) -> Callable[[str], Tokenizer]:
    """The tokenizer of a name: byte-level (tiny, and SmolLM2's) or SentencePiece-like with byte fallback (stories)."""

    def load(name: str) -> Tokenizer:
        folders = {"stories260k": "stories260k", "smollm2": "smollm2-tokenizer"}
        folder = request.getfixturevalue("shared_data") / folders[name] if name in folders else tiny_bundle
        config = json.loads((folder / "config.json").read_text())
        # A tokenizer needs no graph, so these need not be whole bundles.
        shape = SimpleNamespace(
            vocab_size=config["vocab_size"], max_position_embeddings=config["max_position_embeddings"]
        )
        return Tokenizer(SimpleNamespace(folder=folder, shape=shape, bos_token_id=config["bos_token_id"]))

    return load


@pytest.fixture
def run(capfd):
    """Runs a command line; gives its exit code, stdout and stderr."""

    def call(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def stdin(monkeypatch):
    """Gives bytes to a command's stdin."""

    def give(contents):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(contents), encoding="utf-8"))

    return give


@pytest.fixture
def calls(monkeypatch):
    """How many tokens each forward ran, in order."""
    counted = []
    forward = DecoderSession.forward

    def counting(self, token_ids, cache, **options):
        counted.append(len(token_ids))
        return forward(self, token_ids, cache, **options)

    monkeypatch.setattr(DecoderSession, "forward", counting)
    return counted
