"""From float32 weights to small integers and scales, in NumPy.

All schemes are symmetric, `weight ~ scale * integer`, and round to the nearest integer, or by GPTQ where the inputs are
known.
"""

from __future__ import annotations

import numpy as np

from export.gptq import round_with_feedback

# Factors of the plain scale that are tried for 4 bits; beyond them no block of trained weights found a better one.
SCALE_FACTORS = np.linspace(0.6, 1.2, 13, dtype=np.float32)


def zero_point(bits: int) -> int:
    """What MatMulNBits subtracts from its unsigned integers when no zero point is given."""
    return int(2 ** (bits - 1))


def quantize_blockwise(
    weight: np.ndarray, block_size: int, bits: int = 8, *, second_moment: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One scale for every `block_size` inputs of every output row, as MatMulNBits reads it.

    With 8 bits the largest magnitude of a block becomes 127. With 4 bits that would waste the 16th level and much of
    the rest, so scales of either sign are tried and the one with the least squared error is taken.

    Args:
        weight: float32 [out_features, in_features].
        block_size: a power of two, at least 16. A last block that is not full is padded with zeros.
        bits: 8 or 4.
        second_moment: float32 [in_features, in_features], the mean of x x^T over the layer's inputs; with it the
            integers are GPTQ's, without it the nearest.

    Returns:
        quantized: uint8 [out_features, blocks, block_size * bits / 8], `zero_point(bits)` standing for zero; of two
            4-bit integers in a byte the first has the low half.
        scales: float32 [out_features, blocks].

    Raises:
        ValueError: a block size or a number of bits that we do not make.
    """
    if block_size < 16 or block_size & (block_size - 1):
        raise ValueError(f"block_size must be a power of two and at least 16, not {block_size}")
    if bits not in (4, 8):
        raise ValueError(f"bits must be 4 or 8, not {bits}")
    blocks = _blocks(weight, block_size)
    scales = _scales(np.abs(blocks).max(-1)) if bits == 8 else _best_scales(blocks)
    if second_moment is None:
        integers = _round(blocks, scales, bits)
    else:
        each = np.repeat(scales, block_size, axis=1)[:, : weight.shape[1]]
        integers = _blocks(round_with_feedback(weight, each, second_moment, -zero_point(bits)), block_size)
    quantized = (integers + zero_point(bits)).astype(np.uint8)
    if bits == 4:
        quantized = quantized[..., 0::2] | quantized[..., 1::2] << 4
    return quantized, scales


def restore_blockwise(quantized: np.ndarray, scales: np.ndarray, in_features: int, bits: int = 8) -> np.ndarray:
    """The float32 weights [out_features, in_features] that `quantize_blockwise`'s numbers stand for."""
    if bits == 4:
        quantized = np.stack([quantized & 15, quantized >> 4], axis=-1).reshape(*quantized.shape[:-1], -1)
    restored = (quantized.astype(np.float32) - zero_point(bits)) * scales[..., None]
    return restored.reshape(len(quantized), -1)[:, :in_features]


def quantize_per_channel(
    weight: np.ndarray, *, second_moment: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One scale for every output row, as onnxruntime's quantize_dynamic(per_channel=True) does.

    Args:
        weight: float32 [out_features, in_features].
        second_moment: as `quantize_blockwise` takes it.

    Returns:
        quantized: int8 [in_features, out_features], the layout that MatMulInteger reads.
        scales: float32 [out_features].
    """
    scales = _scales(np.abs(weight).max(-1))
    if second_moment is None:
        integers = np.rint(weight / scales[:, None])
    else:
        integers = round_with_feedback(weight, scales[:, None], second_moment, -zero_point(8))
    return integers.astype(np.int8).T, scales


def _blocks(weight: np.ndarray, block_size: int) -> np.ndarray:
    """float32 [out_features, blocks, block_size], the last block filled up with zeros."""
    rows, columns = weight.shape
    blocks = -(-columns // block_size)
    padded = np.zeros((rows, blocks * block_size), np.float32)
    padded[:, :columns] = weight
    return padded.reshape(rows, blocks, block_size)


def _scales(magnitudes: np.ndarray) -> np.ndarray:
    """Scales that map each largest magnitude to 127; a group of zeros gets 1, for it has nothing to scale."""
    return np.where(magnitudes > 0, magnitudes / 127, 1).astype(np.float32)


def _best_scales(blocks: np.ndarray) -> np.ndarray:
    """Scales of 4-bit blocks with the least squared error.

    The integers are -8..7, so the number of largest magnitude is put on -8, whichever its sign; then smaller and larger
    scales of either sign are tried, each refined by the least squares fit to its own integers.
    """
    position = np.abs(blocks).argmax(-1, keepdims=True)
    plain = np.take_along_axis(blocks, position, axis=-1)[..., 0] / -8
    plain = np.where(plain == 0, np.float32(1), plain).astype(np.float32)
    best, least = plain, np.full(plain.shape, np.inf, np.float32)
    for factor in (*SCALE_FACTORS, *-SCALE_FACTORS):
        integers = _round(blocks, plain * factor, bits=4)
        weights = (integers * integers).sum(-1)
        fitted = np.where(weights > 0, (integers * blocks).sum(-1) / np.maximum(weights, 1), plain)
        error = np.square(blocks - _round(blocks, fitted, bits=4) * fitted[..., None]).sum(-1)
        better = (error < least) & (fitted != 0)
        best, least = np.where(better, fitted, best), np.where(better, error, least)
    return best.astype(np.float32)


def _round(blocks: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """The nearest integers of that many bits, as float32."""
    half = zero_point(bits)
    return np.clip(np.rint(blocks / scales[..., None]), -half, half - 1)
