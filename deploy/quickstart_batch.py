#!/usr/bin/env python3
"""Inputs of the quick start, and the check of its outputs; needs nothing but Python.

quickstart_batch.py make FILE Q_LENS KV_LENS     writes random bf16 q, k, v of a packed batch (.safetensors)
quickstart_batch.py compare FILE ORACLE          prints what FILE (bf16) holds and its error against ORACLE (fp32);
                                                 exits 1 when the error is over the bound
"""

from __future__ import annotations

import json
import math
import random
import struct
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

Q_HEADS, KV_HEADS, HEAD_DIM = 16, 4, 128
BF16_BOUND = 3e-3  # relative Frobenius error
LSE_BOUND = 1e-5  # relative to max(1, |lse|)


def make(path: Path, q_lens: str, kv_lens: str) -> None:
    q_tokens, kv_tokens = (sum(map(int, lens.split(","))) for lens in (q_lens, kv_lens))
    seed = random.randrange(2**32)
    source = random.Random(seed)
    shapes = {"q": (q_tokens, Q_HEADS), "k": (kv_tokens, KV_HEADS), "v": (kv_tokens, KV_HEADS)}
    # Unit-normal values, drawn from a table: drawing each element afresh takes Python too long.
    table = [struct.pack("<f", source.gauss(0, 1))[2:] for _ in range(1 << 14)]
    header, payload = {}, bytearray()
    for name, (tokens, heads) in shapes.items():
        begin = len(payload)
        payload += b"".join(source.choices(table, k=tokens * heads * HEAD_DIM))
        header[name] = {"dtype": "BF16", "shape": [tokens, heads, HEAD_DIM], "data_offsets": [begin, len(payload)]}
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + payload)
    print(f"inputs: {len(payload) / 2**20:.1f} MiB, unit-normal, seed {seed}\n")


def read(path: Path) -> dict[str, tuple[list[int], Sequence[float]]]:
    """Shape and elements of each tensor of a .safetensors file."""
    content = path.read_bytes()
    (header_size,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + header_size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + header_size + offset for offset in entry["data_offsets"])
        tensors[name] = (entry["shape"], as_floats(content[begin:end], entry["dtype"]))
    return tensors


def as_floats(raw: bytes, dtype: str) -> Sequence[float]:
    if dtype == "BF16":  # the upper half of an fp32
        wide = bytearray(2 * len(raw))
        wide[2::4], wide[3::4] = raw[0::2], raw[1::2]
        raw = bytes(wide)
    elif dtype != "F32":
        raise SystemExit(f"expected BF16 or F32, got {dtype}")
    return array("f", raw)


def compare(actual_path: Path, oracle_path: Path) -> bool:
    actual, oracle = read(actual_path), read(oracle_path)
    for name, (shape, values) in actual.items():
        mean = math.fsum(values) / len(values)
        print(f"{name:6} shape {tuple(shape)}, min {min(values):.4f}, mean {mean:.4f}, max {max(values):.4f}")
    if any(actual[name][0] != oracle[name][0] for name in ("output", "lse")):
        raise SystemExit("the two backends returned different shapes")
    (_, output), (_, expected) = actual["output"], oracle["output"]
    difference = math.fsum((a - e) ** 2 for a, e in zip(output, expected))
    error = math.sqrt(difference / math.fsum(e * e for e in expected))
    lse_error = max(abs(a - e) / max(1, abs(e)) for a, e in zip(actual["lse"][1], oracle["lse"][1]))
    print(f"output: relative error {error:.2e}, allowed {BF16_BOUND:.0e}")
    print(f"lse:    largest error  {lse_error:.2e}, allowed {LSE_BOUND:.0e}")
    return error <= BF16_BOUND and lse_error <= LSE_BOUND  # false for NaN too


def main(arguments: list[str]) -> int:
    match arguments:
        case ["make", path, q_lens, kv_lens]:
            make(Path(path), q_lens, kv_lens)
            return 0
        case ["compare", actual, oracle]:
            return 0 if compare(Path(actual), Path(oracle)) else 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
