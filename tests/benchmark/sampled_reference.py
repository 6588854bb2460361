"""Attention in float64 on sampled rows, and how far an output is from it."""

import math

import torch

BOUNDS = {"fp32": 1e-6, "fp16": 4e-4, "bf16": 3e-3, "fp8": 3e-2}  # relative Frobenius error; a row may have 5 times it
ROW_FACTOR = 5
LSE_BOUND = 1e-5  # times max(1, |lse|)
FP8_LSE_BOUND = 1e-2  # tensor cores sum fp8 products with fewer bits than fp32 has
CHUNK_BYTES = 2**31


def sample_rows(length, count, device):
    """Positions in ascending order: one of each of `count` stretches, by chance, the first and the last."""
    edges = torch.linspace(0, length, min(count, length) + 1, dtype=torch.float64)
    drawn = edges[:-1] + torch.rand(edges.numel() - 1, dtype=torch.float64) * edges.diff()
    ends = torch.tensor([0, length - 1])
    return torch.unique(torch.cat([drawn.long().clamp(max=length - 1), ends])).to(device)


def expected_rows(workload, q, k, v, rows, kv_len, q_len, slopes=None, sinks=None, mask=None):
    """What the rows of one sequence should be; slopes and sinks of these heads.

    q (rows, heads, dim), k (keys, kv_heads, dim) and v (keys, kv_heads, v_dim), all float64; mask (rows, keys).
    Returns o (rows, heads, v_dim), lse (rows, heads) and the size of the terms that o is the sum of (rows, heads).
    """
    heads, kv_heads, count = q.shape[1], k.shape[1], len(rows)
    group = heads // kv_heads
    grouped = q.transpose(0, 1).reshape(kv_heads, group * count, -1)
    x = (grouped @ k.permute(1, 2, 0)).view(heads, count, kv_len).mul_(workload.scale)
    if workload.softcap:
        x.div_(workload.softcap).tanh_().mul_(workload.softcap)
    distance = (rows[:, None] + (kv_len - q_len) - torch.arange(kv_len, device=rows.device)[None, :])
    if slopes is not None:
        x -= slopes[:, None, None] * distance.abs()
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if workload.causal:
        hidden |= distance < 0
    if workload.window:
        hidden |= distance >= workload.window
    if mask is not None and mask.dtype == torch.bool:
        hidden |= ~mask
    elif mask is not None:
        x += mask
    x.masked_fill_(hidden, -math.inf)
    maximum = x.amax(-1, keepdim=True)
    if sinks is not None:
        maximum = torch.maximum(maximum, sinks[:, None, None])
    maximum.masked_fill_(maximum == -math.inf, 0)
    weights = x.sub_(maximum).exp_()
    total = weights.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + (sinks[:, None, None] - maximum).exp()
    lse = (total.log() + maximum).squeeze(-1)
    weights.div_(total.masked_fill(total == 0, 1))
    weights = weights.view(kv_heads, group * count, kv_len)
    values = v.transpose(0, 1)
    o = weights @ values
    size = (weights.square_() @ values.square().sum(-1, keepdim=True)).sqrt()
    return (o.view(heads, count, -1).transpose(0, 1), lse.transpose(0, 1), size.view(heads, count).transpose(0, 1))


class Errors:
    """Of an output, and an LSE, row by row, against the reference."""

    def __init__(self):
        self.parts = []
        self.lse_parts = []

    def add(self, actual, expected, size):
        """(rows, heads, v_dim) twice, and (rows, heads)"""
        error = (actual.double() - expected).norm(dim=-1)
        norm = torch.maximum(expected.norm(dim=-1), size)
        # Where nothing is visible the output is exactly zero.
        worst = torch.where(norm > 0, error / norm.clamp(min=1e-300), torch.where(error == 0, 0.0, math.inf))
        self.parts.append((error.square().sum(), expected.square().sum(), worst.nan_to_num(nan=math.inf).max(),
                           error.numel()))

    def add_lse(self, actual, expected):
        same = actual.double() == expected  # -inf too
        error = (actual.double() - expected).abs() / expected.abs().clamp(min=1)
        self.lse_parts.append(torch.where(same, 0.0, error).nan_to_num(nan=math.inf).max())

    def result(self):
        error2 = sum(part[0].item() for part in self.parts)
        norm2 = sum(part[1].item() for part in self.parts)
        result = {"relative": math.sqrt(error2 / norm2), "worst_row": max(part[2].item() for part in self.parts),
                  "rows": sum(part[3] for part in self.parts)}
        if self.lse_parts:
            result["lse"] = max(part.item() for part in self.lse_parts)
        return result


def failure_of(workload, errors):
    """What is outside its bound, or an empty string."""
    bound = BOUNDS[workload.dtype]
    if workload.dtype == "fp32":  # given for up to 4096 keys; the output shrinks as more are averaged
        bound *= max(1, math.sqrt(max(keys for _, keys in workload.lengths) / 4096))
    limits = {"relative": bound, "worst_row": ROW_FACTOR * bound,
              "lse": FP8_LSE_BOUND if workload.dtype == "fp8" else LSE_BOUND}
    return ", ".join(f"{name} error {errors[name]:.2e}, bound {limit:.1e}" for name, limit in limits.items()
                     if name in errors and not errors[name] <= limit)


def rows_per_sequence(workload):
    return 64 if len(workload.lengths) <= 4 else max(16, 256 // len(workload.lengths))


class Reference:
    """The expected rows of the first copy of `tensors`; one sequence and a few heads at a time, for memory."""

    def __init__(self, workload, tensors, extras, count=None):
        self.parts = []  # (sequence's first token, rows, heads as a slice, o, lse, size)
        q_begin = kv_begin = 0
        for n, (q_len, kv_len) in enumerate(workload.lengths):
            rows = sample_rows(q_len, count or rows_per_sequence(workload), tensors.device)
            for kv_heads in self.chunks(workload, len(rows), kv_len):
                self.parts.append((q_begin, rows, *self.part(workload, tensors, extras, n, kv_heads, rows, q_begin,
                                                             kv_begin)))
            q_begin, kv_begin = q_begin + q_len, kv_begin + kv_len

    @staticmethod
    def chunks(workload, rows, kv_len):
        group = workload.q_heads // workload.kv_heads
        per_head = 8 * kv_len * (workload.dim + 2 * workload.v_dim + 3 * rows * group)
        heads = max(1, min(workload.kv_heads, CHUNK_BYTES // per_head))
        return [slice(begin, min(begin + heads, workload.kv_heads)) for begin in range(0, workload.kv_heads, heads)]

    @staticmethod
    def part(workload, tensors, extras, n, kv_heads, rows, q_begin, kv_begin):
        q_len, kv_len = workload.lengths[n]
        group = workload.q_heads // workload.kv_heads
        heads = slice(kv_heads.start * group, kv_heads.stop * group)
        keys = slice(kv_begin, kv_begin + kv_len)
        slopes, sinks = ((None if values is None else
                          torch.tensor(values[heads], dtype=torch.float64, device=tensors.device))
                         for values in (extras.slopes, extras.sinks))
        o, lse, size = expected_rows(
            workload, tensors.dequantised("q", n, rows + q_begin, heads), tensors.dequantised("k", n, keys, kv_heads),
            tensors.dequantised("v", n, keys, kv_heads), rows, kv_len, q_len, slopes, sinks,
            extras.mask_rows(rows))
        return heads, o, lse, size

    def errors_of(self, output, lse=None):
        """output (tokens, heads, v_dim), lse (tokens, heads)"""
        errors = Errors()
        for q_begin, rows, heads, o, expected_lse, size in self.parts:
            errors.add(output[rows + q_begin][:, heads], o, size)
            if lse is not None:
                errors.add_lse(lse[rows + q_begin][:, heads], expected_lse)
        return errors.result()
