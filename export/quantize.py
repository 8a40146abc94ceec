"""From float32 weights to 8-bit integers and scales, in NumPy.

Both schemes are symmetric round-to-nearest: `weight ~ scale * quantized`, the scale chosen so that the largest
magnitude of its group maps to 127. Knows no graph.
"""

from __future__ import annotations

import numpy as np

# MatMulNBits and GatherBlockQuantized read unsigned bytes and subtract this when no zero point is given.
ZERO_POINT = 128


def quantize_blockwise(weight: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """One scale for every `block_size` inputs of every output row, as MatMulNBits with bits=8 reads it.

    Args:
        weight: float32 [out_features, in_features].
        block_size: a power of two, at least 16. A last block that is not full is padded with zeros.

    Returns:
        quantized: uint8 [out_features, blocks, block_size], 128 standing for zero.
        scales: float32 [out_features, blocks].

    Raises:
        ValueError: a block size that the operator does not take.
    """
    if block_size < 16 or block_size & (block_size - 1):
        raise ValueError(f"block_size must be a power of two and at least 16, not {block_size}")
    rows, columns = weight.shape
    blocks = -(-columns // block_size)
    padded = np.zeros((rows, blocks * block_size), np.float32)
    padded[:, :columns] = weight
    grouped = padded.reshape(rows, blocks, block_size)
    scales = _scales(np.abs(grouped).max(-1))
    quantized = np.rint(grouped / scales[..., None]) + ZERO_POINT
    return quantized.astype(np.uint8), scales


def quantize_per_channel(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One scale for every output row, as onnxruntime's quantize_dynamic(per_channel=True) does.

    Args:
        weight: float32 [out_features, in_features].

    Returns:
        quantized: int8 [in_features, out_features], the layout that MatMulInteger reads.
        scales: float32 [out_features].
    """
    scales = _scales(np.abs(weight).max(-1))
    return np.rint(weight / scales[:, None]).astype(np.int8).T, scales


def _scales(magnitudes: np.ndarray) -> np.ndarray:
    """Scales that map each largest magnitude to 127; a group of zeros gets 1, for it has nothing to scale."""
    return np.where(magnitudes > 0, magnitudes / 127, 1).astype(np.float32)
