"""How well a device is used: the operations of a step over what the device could do (MFU), and peak memory.

Operations are counted as in PaLM's appendix B (arXiv:2204.02311): 6 per token and per weight that takes part in a
matrix product, forward and backward, and 12 x layers x heads x head_dim x tokens of the row for attention, as if it
were not causal. Recomputed activations are not counted, because MFU measures the work of the model.
"""

from __future__ import annotations

import re
import resource
import sys

import torch

from model import ModelConfig
from model.parameters import parameter_counts
from train.config import MachineSection

# Dense peaks of the half-precision format that the device computes itself (bfloat16, or float16 before Ampere), from
# the vendors' data sheets, in TFLOP/s, by words of the device name that torch gives. The first match counts.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "A10": 125.0,
    "A10G": 70.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "T4": 65.0,
}


def flops_per_token(config: ModelConfig, row_tokens: int) -> float:
    """Operations of a forward and a backward pass for one token of a row of `row_tokens`."""
    counts = parameter_counts(config)
    multiplied = counts["attention"] + counts["mlp"] + config.vocab_size * config.hidden_size  # the head, tied or not
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * row_tokens
    return 6 * multiplied + attention


def peak_flops(machine: MachineSection, device: torch.device) -> float | None:
    """Peak operations per second of one device; None for an unknown device."""
    if machine.peak_tflops:
        return machine.peak_tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for words, peak in PEAK_TFLOPS.items() if re.search(rf"\b{words}\b", name)), None)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory so far: of the tensors on a GPU, or else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
