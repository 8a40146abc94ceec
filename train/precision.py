"""In which number format the matrix products of training are computed, and the loss scale that float16 needs.

    fp32    on a CPU, and on GPUs without tensor cores
    tf32    float32 whose products keep 10 bits of mantissa (NVIDIA, Ampere and later)
    bf16    bfloat16, where the device computes it itself (Ampere and later); the range of float32
    fp16    float16, the format of older tensor cores (V100, T4); gradients leave its range, so the loss is scaled

Weights, moments, norms and the loss are float32 in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from train.errors import RecipeError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
AMPERE, VOLTA = (8, 0), (7, 0)  # compute capabilities


def choose_precision(wanted: str, device: torch.device) -> str:
    """The precision that `machine.precision` stands for on a device: "auto" is the fastest that is safe there.

    Raises:
        RecipeError: the device has no such format, or would emulate it, which is slower than float32.
    """
    if device.type != "cuda":
        if wanted == "tf32":
            raise RecipeError("machine.precision is tf32, which NVIDIA's GPUs alone compute: take auto or fp32")
        return "fp32" if wanted == "auto" else wanted
    capability = torch.cuda.get_device_capability(device)
    if wanted == "auto":
        return "bf16" if capability >= AMPERE else "fp16" if capability >= VOLTA else "fp32"
    if wanted in ("bf16", "tf32") and capability < AMPERE:
        name = torch.cuda.get_device_name(device)
        raise RecipeError(f"machine.precision is {wanted}, which {name} does not compute itself: take auto or fp16")
    return wanted


def set_product_precision(precision: str) -> None:
    """Let float32 products on a GPU be TF32, or forbid it."""
    torch.set_float32_matmul_precision("high" if precision in ("tf32", "bf16") else "highest")


@dataclass
class LossScale:
    """The factor on the loss that keeps float16 gradients in range (arXiv:1710.03740, section 3.2), and its history.

    A step whose gradients overflow is skipped and halves the factor; it doubles after `GROWTH_STEPS` steps without.
    """

    factor: float = 2.0**16
    sound_steps: int = 0  # since the factor last changed
    overflows: int = 0  # steps skipped in the whole run

    GROWTH_STEPS = 2000
    LARGEST = 2.0**24

    def update(self, *, is_finite: bool) -> None:
        """Note whether a step's gradients were finite."""
        if not is_finite:
            self.factor, self.sound_steps, self.overflows = self.factor / 2, 0, self.overflows + 1
            return
        self.sound_steps += 1
        if self.sound_steps == self.GROWTH_STEPS:
            self.factor, self.sound_steps = min(self.factor * 2, self.LARGEST), 0
