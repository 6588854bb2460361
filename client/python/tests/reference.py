"""Attention in float64, one sequence at a time, as plainly as numpy says it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Largest relative Frobenius error of an output of this type, computed from inputs of it.
ERROR_BOUNDS = {
    np.dtype(np.float32): 1e-6,
    np.dtype(np.float16): 4e-4,
    np.dtype(ml_dtypes.bfloat16): 3e-3,
}


def attention(
    q: Array,  # (q_len, q_heads, head_dim_qk)
    k: Array,  # (kv_len, kv_heads, head_dim_qk)
    v: Array,  # (kv_len, kv_heads, head_dim_v)
    *,
    scale: float | None = None,
    causal: bool = False,
    offset: int | None = None,
    window_left: int | None = None,
    window_right: int | None = None,
    softcap: float = 0.0,
    alibi_slopes: Array | None = None,
    sinks: Array | None = None,
    mask: Array | None = None,
) -> tuple[Array, Array]:
    """(output (q_len, q_heads, head_dim_v), lse (q_len, q_heads)); offset None aligns bottom-right."""
    q, k, v = (tensor.astype(np.float64) for tensor in (q, k, v))
    q_len, q_heads, head_dim = q.shape
    kv_len, kv_heads, _ = k.shape
    group = q_heads // kv_heads
    offset = kv_len - q_len if offset is None else offset
    window_right = 0 if causal else window_right

    scores = np.einsum("qhd,khd->hqk", q, k.repeat(group, axis=1))
    scores *= 1 / np.sqrt(head_dim) if scale is None else np.float32(scale)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    distance = np.arange(kv_len)[None, :] - np.arange(q_len)[:, None] - offset  # (q_len, kv_len)
    if alibi_slopes is not None:
        scores -= np.asarray(alibi_slopes, np.float32)[:, None, None] * np.abs(distance)
    if window_left is not None:
        scores = np.where(distance >= -window_left, scores, -np.inf)
    if window_right is not None:
        scores = np.where(distance <= window_right, scores, -np.inf)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == np.bool_ else scores + mask.astype(np.float64)
    columns = [scores, np.full((q_heads, q_len, 1), -np.inf)]
    if sinks is not None:
        columns[1] = np.broadcast_to(np.asarray(sinks, np.float32)[:, None, None], columns[1].shape)
    logits = np.concatenate(columns, axis=2)

    row_max = logits.max(axis=2, keepdims=True)
    row_max[np.isneginf(row_max)] = 0
    weights = np.exp(logits - row_max)
    row_sum = weights.sum(axis=2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        probabilities = np.where(row_sum > 0, weights / row_sum, 0)[:, :, :kv_len]
        lse = np.log(row_sum[:, :, 0]) + row_max[:, :, 0]
    return np.einsum("hqk,khd->qhd", probabilities, v.repeat(group, axis=1)), lse.T


def assert_close(actual: Array, expected: Array, input_dtype: np.dtype[Any] | None = None) -> None:
    """`actual` agrees with the float64 `expected`; rows that are zero are exactly zero.

    The bound is that of its dtype, or of `input_dtype` where that is coarser.
    """
    assert actual.shape == expected.shape
    wide = actual.astype(np.float64)
    assert np.isfinite(wide).all()
    norm = np.linalg.norm(expected)
    error = np.linalg.norm(wide - expected) / norm if norm else np.linalg.norm(wide)
    bound = max(ERROR_BOUNDS[actual.dtype], ERROR_BOUNDS[input_dtype or actual.dtype])
    assert error <= bound, f"relative error {error:.3g} of {actual.dtype}, allowed {bound:.3g}"
    assert not wide[~expected.any(axis=-1)].any()


def assert_lse_close(actual: Array, expected: Array) -> None:
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
