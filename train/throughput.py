"""How well a device is used: floating-point operations of a step over what the device could do (MFU), and memory.

Operations are counted as in PaLM's appendix B (arXiv:2204.02311): 6 for each token and each weight that a matrix
product reads, forward and backward, and 12 x layers x heads x head_dim x tokens of the row for attention, as if it were
not causal. Recomputed activations do not count: it is the model's work that is measured, not the device's.
"""

from __future__ import annotations

import resource
import sys

import torch

from model import ModelConfig
from model.parameters import parameter_counts
from train.config import MachineSection

# Dense bfloat16 peaks of the makers' data sheets, in TFLOP/s, by a part of the name that torch gives. The first that
# fits counts.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
}


def flops_per_token(config: ModelConfig, row_tokens: int) -> float:
    """Operations of a forward and a backward pass for one token of a row of so many."""
    counts = parameter_counts(config)
    multiplied = counts["attention"] + counts["mlp"] + config.vocab_size * config.hidden_size  # the head, tied or not
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * row_tokens
    return 6 * multiplied + attention


def peak_flops(machine: MachineSection, device: torch.device) -> float | None:
    """Operations a second that one device can do at most; None for a device that is not known."""
    if machine.peak_tflops:
        return machine.peak_tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in PEAK_TFLOPS.items() if part in name), None)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that was ever in use: a GPU's tensors, or else the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
