"""The README.md of a bundle: what it is, how to run it, what each file is."""

from __future__ import annotations

from typing import Any

from export.comparison.report import change_text
from model import ModelConfig
from model.parameters import describe_parameters

CARD = """\
---
library_name: onnx
pipeline_tag: text-generation
tags: [onnx, onnxruntime, smoltext]{base_model}
---

# {name}, as ONNX

A {parameters:,}-parameter decoder exported by SmolText for ONNX Runtime.
One graph serves prefill and decode, with the KV cache as inputs and outputs.

```bash
python -m runtime generate . --prompt "Once upon a time"
```

| precision | file | MB | int8 share of the weights read | |
|---|---|---|---|---|
{rows}
{comparison}
Context {context} tokens; opset {opset}; onnxruntime {onnxruntime} or newer. `manifest.json` has every file's SHA-256.

```
{by_part}
```
"""


def model_card(config: ModelConfig, manifest: dict[str, Any]) -> str:
    """Markdown with the metadata block that the Hub reads."""
    rows = "\n".join(
        f"| {name} | `{entry['file']}` | {entry['file_bytes'] / 1e6:.1f} | {entry['int8_weight_fraction']:.1%} "
        f"| {entry['summary']} |"
        for name, entry in manifest["precisions"].items()
    )
    base_model = manifest.get("base_model")
    return CARD.format(
        # The Hub's word for what was made from a model in another format is a quantization of it.
        base_model=f"\nbase_model: {base_model}\nbase_model_relation: quantized" if base_model else "",
        name=manifest["name"],
        parameters=manifest["parameters"]["total"],
        rows=rows,
        comparison=_comparison(manifest.get("comparison")),
        context=config.max_position_embeddings,
        opset=manifest["opset"],
        onnxruntime=manifest["minimum_onnxruntime"],
        by_part=describe_parameters(config),
    )


def _comparison(figures: dict[str, Any] | None) -> str:
    """How close each file is to PyTorch in float32, where it was measured."""
    if figures is None:
        return ""
    rows = "\n".join(
        f"| {name} | {row['kl']:.2g} | {row['top1_agreement']:.2%} | {row['perplexity']:.4f} "
        f"({change_text(row['perplexity_change'], row['perplexity_change_interval'])}) |"
        for name, row in figures["precisions"].items()
    )
    return f"""
Against PyTorch in float32, on {figures["tokens"]:,} tokens of {figures["text"]}:

| precision | KL (nats) | top-1 agreement | perplexity |
|---|---|---|---|
| PyTorch | | | {figures["reference"]["perplexity"]:.4f} |
{rows}
"""
