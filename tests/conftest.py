"""What tests of every package share: the shared data folder, the tiny bundle, a bundle of real trained weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real weights, tokenizers and texts, which lie beside the repository and not in it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared data folder is not beside the repository (../shared/data)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """The committed bundle of random weights: fp32 and int8, a chat template, a context of 192. Read it only."""
    return REPOSITORY / "tests" / "goldens" / "tiny-bundle"


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The folder of SmolLM2-135M-Instruct, or of a model of its kind, that whoever runs the tests has."""
    if "SMOLTEXT_REAL_MODEL" not in os.environ:
        pytest.skip("SMOLTEXT_REAL_MODEL names no folder of SmolLM2-135M-Instruct")
    return Path(os.environ["SMOLTEXT_REAL_MODEL"])


@pytest.fixture(scope="session")
def real_gguf() -> Path:
    """A GGUF file of the same model."""
    if "SMOLTEXT_REAL_GGUF" not in os.environ:
        pytest.skip("SMOLTEXT_REAL_GGUF names no GGUF file of SmolLM2-135M-Instruct")
    return Path(os.environ["SMOLTEXT_REAL_GGUF"])


@pytest.fixture(scope="session")
def int8_cache_bundle(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, each precision with a KV cache of floats and of int8. Read it only."""
    pytest.importorskip("torch", reason="the bundle of real weights is exported with torch")
    from export.bundle import export_bundle
    from export.precisions import parse_precisions
    from model import Checkpoint

    out = tmp_path_factory.mktemp("bundles") / "stories260k-kv8"
    precisions = parse_precisions("fp32-kv8,int8-kv8,q8-kv8,q4-kv8")
    export_bundle(
        Checkpoint(shared_data / "stories260k"), out, precisions, source="test", calibration_tokens=0, progress=False
    )
    return out


@pytest.fixture(scope="session")
def stories260k_bundle(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real trained weights as fp32, int8 and q8. Read it only."""
    pytest.importorskip("torch", reason="the bundle of real weights is exported with torch")
    from export.bundle import export_bundle
    from export.precisions import parse_precisions
    from model import Checkpoint

    out = tmp_path_factory.mktemp("bundles") / "stories260k"
    export_bundle(
        Checkpoint(shared_data / "stories260k"), out, parse_precisions("fp32,int8,q8"), source="test", progress=False
    )
    return out
