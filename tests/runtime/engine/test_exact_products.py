"""8-bit products are exact on every CPU, and cost nothing where they are so by themselves."""

from __future__ import annotations

import platform

import pytest

from runtime.engine import exact_products
from runtime.engine.exact_products import exact_product_options

ASKED = {"session.x64quantprecision": "1"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse avx2 avx512f avx512_vnni", {}),
        ("fpu sse avx2 avx_vnni", {}),
        ("fpu sse avx2 avx512f avx512bw", ASKED),
        ("fpu sse avx2", ASKED),
    ],
)
def test_x86_is_asked_for_exact_products_only_without_vnni(tmp_path, monkeypatch, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: any\nflags\t\t: {flags}\n")
    monkeypatch.setattr(exact_products, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert exact_product_options() == expected


def test_an_unknown_cpu_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(exact_products, "CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")
    assert exact_product_options() == ASKED


@pytest.mark.parametrize("machine", ["arm64", "aarch64"])
def test_arm_multiplies_exactly(tmp_path, monkeypatch, machine):
    monkeypatch.setattr(exact_products, "CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert exact_product_options() == {}
