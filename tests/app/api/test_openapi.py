"""Our own OpenAPI description, against which schemathesis sends what it can think of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.api.serving import Served

CONFIG = Path(__file__).with_name("schemathesis.toml")


def test_the_description_has_every_endpoint_and_no_error_of_fastapis(api: Served) -> None:
    with api.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/models/{name}",
        "/tokenize",
        "/detokenize",
        "/v1/completions",
        "/v1/chat/completions",
    }
    for operations in paths.values():
        for operation in operations.values():
            assert set(operation["responses"]) == {"200", "default"}


@pytest.mark.parametrize(
    ("phases", "examples"), [("fuzzing", 8), pytest.param("coverage,fuzzing", 300, marks=pytest.mark.slow)]
)
def test_schemathesis_finds_nothing(api: Served, tmp_path, phases, examples) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    if not program.is_file():
        pytest.skip("schemathesis is not installed (requirements-dev.txt)")
    command = [program, "--config-file", CONFIG, "run", f"{api.url}/openapi.json", "--no-color"]
    command += ["--phases", phases, "-n", str(examples)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "8 selected / 8 total" in done.stdout
    api.wait_until_free()
