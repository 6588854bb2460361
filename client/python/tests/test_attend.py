"""Attend against a float64 reference: every option, layout and dtype, from contiguous and other arrays."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera_client
from reference import Array, assert_close, assert_lse_close, attention

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BF16]
Q_HEADS, KV_HEADS, HEAD_DIM, HEAD_DIM_V = 4, 2, 32, 48

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "scale": {"scale": 0.3},
    "window": {"window_left": 5, "window_right": 3},
    "causal_window": {"causal": True, "window_left": 4},
    "softcap": {"softcap": 2.0, "scale": 1.0},
    "alibi": {"alibi_slopes": [0.5, 0.25, 0.125, 0.0625]},
    "sinks": {"sinks": [0.5, -1.0, 2.0, -np.inf]},
    "everything": {
        "scale": 0.7,
        "causal": True,
        "window_left": 9,
        "softcap": 5.0,
        "alibi_slopes": np.array([0.1, 0.2, 0.3, 0.4]),
        "sinks": np.array([1.0, 0.0, -2.0, 0.5], np.float32),
    },
}


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any] = DTYPES[0]) -> Array:
    return rng.standard_normal(shape).astype(dtype)


def draw_packed(
    rng: np.random.Generator, q_lens: list[int], kv_lens: list[int], dtype: np.dtype[Any] = DTYPES[0]
) -> tuple[Array, Array, Array]:
    return (
        draw(rng, (sum(q_lens), Q_HEADS, HEAD_DIM), dtype),
        draw(rng, (sum(kv_lens), KV_HEADS, HEAD_DIM), dtype),
        draw(rng, (sum(kv_lens), KV_HEADS, HEAD_DIM_V), dtype),
    )


def packed_reference(
    q: Array, k: Array, v: Array, q_lens: list[int], kv_lens: list[int], **options: Any
) -> tuple[Array, Array]:
    masks = options.pop("masks", [None] * len(q_lens))
    offsets = options.pop("offsets", [None] * len(q_lens))
    q_ends, kv_ends = np.cumsum(q_lens), np.cumsum(kv_lens)
    parts = [
        attention(
            q[q_end - q_len : q_end],
            k[kv_end - kv_len : kv_end],
            v[kv_end - kv_len : kv_end],
            mask=mask,
            offset=offset,
            **options,
        )
        for q_end, q_len, kv_end, kv_len, mask, offset in zip(
            q_ends, q_lens, kv_ends, kv_lens, masks, offsets, strict=True
        )
    ]
    return np.concatenate([output for output, _ in parts]), np.concatenate([lse for _, lse in parts])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("feature", FEATURES)
def test_packed_ragged_batch(
    client: tessera_client.Client, rng: np.random.Generator, feature: str, dtype: np.dtype[Any]
) -> None:
    q_lens, kv_lens = [17, 1, 0, 40], [33, 19, 7, 40]
    q, k, v = draw_packed(rng, q_lens, kv_lens, dtype)
    options = FEATURES[feature]
    result = client.attend(q, k, v, q_lens=q_lens, kv_lens=kv_lens, return_lse=True, **options)
    output, lse = packed_reference(q, k, v, q_lens, kv_lens, **options)
    assert result.output.dtype == dtype
    assert_close(result.output, output)
    assert result.lse is not None
    assert_lse_close(result.lse, lse)


@pytest.mark.parametrize("per_sequence", [False, True])
def test_fp8_with_scales(client: tessera_client.Client, rng: np.random.Generator, per_sequence: bool) -> None:
    fp8 = np.dtype(ml_dtypes.float8_e4m3fn)
    lens = [17, 30]
    heads = {"q": Q_HEADS, "k": KV_HEADS, "v": KV_HEADS}
    tensors, values, scales = {}, {}, {}
    for name, tensor in zip("qkv", draw_packed(rng, lens, lens), strict=True):
        scales[name] = rng.uniform(0.01, 0.02, (2, heads[name]) if per_sequence else heads[name]).astype(np.float32)
        of_token = np.repeat(np.broadcast_to(scales[name], (2, heads[name])), lens, axis=0)[:, :, None]
        tensors[name] = (tensor / of_token).astype(fp8)
        values[name] = tensors[name].astype(np.float32) * of_token
    result = client.attend(
        *tensors.values(),
        q_lens=lens,
        q_scales=scales["q"],
        k_scales=scales["k"],
        v_scales=scales["v"],
        causal=True,
        return_lse=True,
    )
    output, lse = packed_reference(*values.values(), lens, lens, causal=True)
    assert result.output.dtype == BF16
    assert_close(result.output, output)
    assert result.lse is not None
    assert_lse_close(result.lse, lse)


@pytest.mark.parametrize("backend", ["cpu_fused", "cpu_standard"])
@pytest.mark.parametrize("layout", ["bshd", "bhsd"])
def test_padded_batch(client: tessera_client.Client, rng: np.random.Generator, layout: Any, backend: str) -> None:
    q_lens, kv_lens = [13, 8], [21, 30]
    q = draw(rng, (2, 13, Q_HEADS, HEAD_DIM))
    k = draw(rng, (2, 30, KV_HEADS, HEAD_DIM))
    v = draw(rng, (2, 30, KV_HEADS, HEAD_DIM_V))
    expected = np.zeros((2, 13, Q_HEADS, HEAD_DIM_V))
    expected_lse = np.full((2, 13, Q_HEADS), -np.inf)
    for row, (q_len, kv_len) in enumerate(zip(q_lens, kv_lens, strict=True)):
        expected[row, :q_len], expected_lse[row, :q_len] = attention(
            q[row, :q_len], k[row, :kv_len], v[row, :kv_len], causal=True
        )
    if layout == "bhsd":  # views: sent with their strides
        q, k, v, expected, expected_lse = (a.swapaxes(1, 2) for a in (q, k, v, expected, expected_lse))
    result = client.attend(
        q, k, v, layout=layout, q_lens=q_lens, kv_lens=kv_lens, causal=True, backend=backend, return_lse=True
    )
    assert_close(result.output, expected)
    assert result.lse is not None
    assert_lse_close(result.lse, expected_lse)
    assert result.ledger.choice.backend == backend


def test_alignment(client: tessera_client.Client, rng: np.random.Generator) -> None:
    q, k, v = draw_packed(rng, [9, 9], [20, 4])
    lens: Any = {"q_lens": [9, 9], "kv_lens": [20, 4]}
    for options, offsets in (
        ({"alignment": "bottom_right"}, [11, -5]),
        ({"alignment": "top_left"}, [0, 0]),
        ({"diagonal_offsets": [3, -2]}, [3, -2]),
    ):
        result = client.attend(q, k, v, causal=True, **lens, **options)  # type: ignore[typeddict-item]
        expected, _ = packed_reference(q, k, v, **lens, causal=True, offsets=offsets)
        assert_close(result.output, expected)


def test_boolean_mask_per_sequence(client: tessera_client.Client, rng: np.random.Generator) -> None:
    q_lens, kv_lens = [6, 11], [15, 5]
    q, k, v = draw_packed(rng, q_lens, kv_lens)
    masks = [rng.random((1, 6, 15)) < 0.5, rng.random((Q_HEADS, 11, 5)) < 0.5]
    masks[1][:, 3] = False
    result = client.attend(q, k, v, q_lens=q_lens, kv_lens=kv_lens, masks=masks, return_lse=True)
    expected, lse = packed_reference(q, k, v, q_lens, kv_lens, masks=masks)
    assert_close(result.output, expected)
    assert result.lse is not None
    assert_lse_close(result.lse, lse)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_additive_mask_broadcast(client: tessera_client.Client, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
    q, k, v = draw(rng, (2, 7, 4, 32)), draw(rng, (2, 12, 4, 32)), draw(rng, (2, 12, 4, 32))
    mask = np.broadcast_to(draw(rng, (2, 1, 7, 12), dtype), (2, 4, 7, 12))
    result = client.attend(q, k, v, masks=mask)
    expected = np.stack([attention(q[row], k[row], v[row], mask=mask[row])[0] for row in range(2)])
    assert_close(result.output, expected)


@pytest.mark.parametrize("output_dtype", ["fp32", "fp16", "bf16"])
def test_output_dtype(client: tessera_client.Client, rng: np.random.Generator, output_dtype: str) -> None:
    q, k, v = draw_packed(rng, [10], [10], BF16)
    result = client.attend(q, k, v, output_dtype=output_dtype)
    assert result.lse is None
    assert result.output.dtype == dict(zip(["fp32", "fp16", "bf16"], DTYPES, strict=True))[output_dtype]
    assert_close(result.output, attention(q, k, v)[0], input_dtype=BF16)


def test_arrays_that_are_not_contiguous(client: tessera_client.Client, rng: np.random.Generator) -> None:
    qkv = draw(rng, (10, 8, 3, HEAD_DIM))
    q, k, v = qkv[:, :4, 0], qkv[:, 4:6, 1], qkv[::-1, 6:8, 2]
    transposed = np.asfortranarray(draw(rng, (10, 4, HEAD_DIM)))
    big_endian = q.astype(">f4")
    for query in (q, transposed, big_endian):
        assert_close(client.attend(query, k, v).output, attention(query, k, v)[0])


def test_result_is_the_callers_own(client: tessera_client.Client, rng: np.random.Generator) -> None:
    q, k, v = draw_packed(rng, [5], [5])
    output = client.attend(q, k, v).output
    assert output.flags.writeable
    assert output.flags.aligned
    assert output.flags.c_contiguous


def test_large_message(client: tessera_client.Client, rng: np.random.Generator) -> None:
    """Past gRPC's default limit of 4 MiB, both ways."""
    q, k, v = draw(rng, (20000, 4, 64)), draw(rng, (3, 4, 64)), draw(rng, (3, 4, 64))
    result = client.attend(q, k, v, q_lens=[20000], kv_lens=[3])
    assert_close(result.output, attention(q, k, v)[0])


def test_ledger(client: tessera_client.Client, rng: np.random.Generator) -> None:
    q, k, v = draw_packed(rng, [64, 32], [64, 32], BF16)
    result = client.attend(q, k, v, q_lens=[64, 32], causal=True, backend="cpu_fused", request_id="ledger-1")
    ledger = result.ledger
    assert result.request_id == "ledger-1"
    assert ledger.memory.input == q.nbytes + k.nbytes + v.nbytes
    assert ledger.memory.output == result.output.nbytes
    assert ledger.memory.workspace_peak > 0
    assert ledger.traffic.hbm_read > 0
    assert ledger.traffic.hbm_write >= result.output.nbytes
    assert ledger.traffic.standard_workspace > 0
    assert ledger.choice.backend == "cpu_fused"
    assert ledger.choice.kernel
    assert ledger.choice.tile_q > 0
    assert ledger.choice.tile_kv > 0
    assert ledger.choice.batch_sequences >= 2
    visible = 64 * 65 // 2 + 32 * 33 // 2
    assert ledger.flops == 2 * visible * Q_HEADS * (HEAD_DIM + HEAD_DIM_V)
    assert ledger.time.compute > 0
    assert ledger.time.total >= ledger.time.compute
    assert ledger.achieved_flops_per_s > 0
