"""The table of precisions agrees with the files that consumers expect, and with itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from runtime.precisions import PRECISIONS, batch_invariant_names

# What transformers.js looks for, by its own dtype names.
TRANSFORMERS_JS = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "q8": "model_quantized.onnx"}
TRANSFORMERS_JS |= {"int8": "model_int8.onnx", "q4": "model_q4.onnx"}


def test_files_are_those_that_transformers_js_looks_for():
    assert {name: PRECISIONS[name].file for name in TRANSFORMERS_JS} == TRANSFORMERS_JS


def test_names_files_and_colours_are_distinct():
    rows = list(PRECISIONS.values())
    for field in ("name", "file", "colour"):
        assert len({getattr(row, field) for row in rows}) == len(rows)
    assert all(name == row.name for name, row in PRECISIONS.items())


@pytest.mark.parametrize("name", [row.name for row in PRECISIONS.values() if row.has_int8_cache])
def test_an_int8_cache_shares_weights_and_loosens_nothing_but_them(name):
    row, own = PRECISIONS[name], PRECISIONS[PRECISIONS[name].weights]
    assert (own.has_int8_cache, own.weights) == (False, own.name)
    assert row.can_be_batch_invariant == own.can_be_batch_invariant
    assert row.limits.max_kl >= own.limits.max_kl
    assert not row.rounding_is_harmless


def test_batch_invariance_needs_the_int8_cache_of_int8():
    assert batch_invariant_names() == ["int8-kv8"]
    assert not any(row.batch_invariant and not row.can_be_batch_invariant for row in PRECISIONS.values())


def test_the_preferred_precision_is_int8_and_floats_come_last():
    own = [name for name, row in PRECISIONS.items() if not row.has_int8_cache]
    assert (next(iter(PRECISIONS)), own[-1]) == ("int8", "fp32")


def test_the_table_loads_nothing_but_the_standard_library():
    script = "import sys, runtime.precisions; print('numpy' in sys.modules, 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
