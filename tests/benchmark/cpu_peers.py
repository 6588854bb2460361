#!/usr/bin/env python3
"""Times the fused CPU kernel against PyTorch's scaled_dot_product_attention in one process, round about.

    cpu_peers.py build/release/tests/benchmark/libtessera_kernels_cpu_shared.so --threads=16 --json=peers.json

Every cell is checked against float64 on sampled rows before it is timed. Rounds alternate (ours, PyTorch, ours, ...)
over fresh random inputs; the table gives each side's median GFLOP/s and the median, least and largest ratio of
neighbouring rounds. FLOPs are 4 * B * H * Sq * Skv * D, halved for causal.
"""

import argparse
import ctypes
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

DTYPES = {"fp32": 1, "fp16": 2, "bf16": 3}
BOUNDS = {"fp32": 1e-6, "fp16": 4e-4, "bf16": 3e-3}


class Call(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int32) for name in
         ("dtype", "batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim", "causal",
          "threads", "tile_q", "tile_kv", "num_splits")]
        + [("isa", ctypes.c_char_p)]
        + [(name, ctypes.c_void_p) for name in ("q", "k", "v", "o", "lse")])


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtypes", default="fp32,bf16,fp16")
    parser.add_argument("--shapes", default="1x16x1024x64,1x16x4096x128",
                        help="BxHxSxD, or BxHxSqxSkvxD for queries fewer than keys")
    parser.add_argument("--causal", default="0,1")
    parser.add_argument("--isa", default="")
    parser.add_argument("--tile", default="0x0", help="tile_q x tile_kv; 0: the kernel's choice")
    parser.add_argument("--splits", type=int, default=0)
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--json")
    return parser.parse_args()


arguments = parse_arguments()
os.environ.setdefault("OMP_NUM_THREADS", str(arguments.threads))
import torch  # noqa: E402: reads OMP_NUM_THREADS

torch.set_num_threads(arguments.threads)


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def commit():
    try:
        return subprocess.run(["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty"],
                              capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("TESSERA_COMMIT", "unknown")


class Cell:
    """One (dtype, shape, causal) with its inputs."""

    def __init__(self, library, dtype, shape, causal):
        self.library, self.dtype, self.causal = library, dtype, causal
        sizes = [int(part) for part in shape.split("x")]
        self.batch, self.heads, self.q_len, self.kv_len, self.dim = (
            sizes if len(sizes) == 5 else [*sizes[:2], sizes[2], sizes[2], sizes[3]])
        torch_dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]

        def tensor(length):
            return torch.randn(self.batch, self.heads, length, self.dim).to(torch_dtype).contiguous()

        # Fresh copies for neighbouring rounds: decoding must find its K and V in memory, not in a cache.
        copies = max(1, min(16, math.ceil(2**30 / (2 * self.batch * self.heads * self.kv_len * self.dim * 4)))
                     if self.q_len < 16 else 2)
        self.inputs = [(tensor(self.q_len), tensor(self.kv_len), tensor(self.kv_len)) for _ in range(copies)]
        self.out = torch.empty_like(self.inputs[0][0])
        self.flops = 4 * self.batch * self.heads * self.q_len * self.kv_len * self.dim // (2 if causal else 1)
        self.kv_bytes = 2 * self.batch * self.heads * self.kv_len * self.dim * self.out.element_size()

    def ours(self, turn):
        q, k, v = self.inputs[turn % len(self.inputs)]
        tile_q, tile_kv = (int(part) for part in arguments.tile.split("x"))
        call = Call(DTYPES[self.dtype], self.batch, self.heads, self.heads, self.q_len, self.kv_len, self.dim,
                    int(self.causal), arguments.threads, tile_q, tile_kv, arguments.splits,
                    arguments.isa.encode() or None,
                    q.data_ptr(), k.data_ptr(), v.data_ptr(), self.out.data_ptr(), None)
        name = self.library.tessera_peer_attention(ctypes.byref(call))
        if name is None:
            sys.exit(f"instruction set {arguments.isa} cannot be used on this machine")
        return name.decode()

    def peer(self, turn):
        q, k, v = self.inputs[turn % len(self.inputs)]
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)

    def error(self, output):
        """Relative Frobenius error against float64 on sampled rows."""
        q, k, v = (tensor.double() for tensor in self.inputs[0])
        rows = torch.unique(torch.randint(0, self.q_len, (24,)))
        scores = q[:, :, rows] @ k.transpose(2, 3) / math.sqrt(self.dim)
        if self.causal:
            scores.masked_fill_(torch.arange(self.kv_len)[None, :] > rows[:, None], -math.inf)
        expected = torch.softmax(scores, -1) @ v
        return ((output[:, :, rows].double() - expected).norm() / expected.norm()).item()

    def check(self):
        self.ours(0)
        error = self.error(self.out)
        bound = BOUNDS[self.dtype]
        if self.dtype == "fp32":  # given for up to 4096 keys; the output shrinks as more are averaged
            bound *= max(1, math.sqrt(self.kv_len / 4096))
        if not error <= bound:
            sys.exit(f"wrong result: relative error {error:.2e} exceeds {bound:.0e} ({self.dtype})")
        return error


def timed(function, turn, repeats):
    begin = time.perf_counter()
    for i in range(repeats):
        function(turn + i)
    return (time.perf_counter() - begin) / repeats


def measure(cell):
    error = cell.check()
    kernel = cell.ours(0)
    functions = [cell.ours] if arguments.ours_only else [cell.ours, cell.peer]
    repeats = []
    for function in functions:
        function(0)
        repeats.append(max(1, min(50, int(0.03 / timed(function, 0, 2)))))
    rounds = [[timed(function, turn * 7, count) for function, count in zip(functions, repeats)]
              for turn in range(arguments.rounds)]
    return {"error": error, "kernel": kernel, "seconds": rounds}


def main():
    library = ctypes.CDLL(os.path.abspath(arguments.library))
    library.tessera_peer_attention.restype = ctypes.c_char_p
    header = {"cpu": cpu_model(), "threads": arguments.threads, "torch": torch.__version__, "commit": commit(),
              "rounds": arguments.rounds}
    print(", ".join(f"{key} {value}" for key, value in header.items()))
    print(f"{'dtype':5} {'shape':18} {'mask':6} {'ours':>8} {'torch':>8} GFLOP/s  {'ratio':>6} {'least':>6} {'most':>6}"
          f"  {'error':>8}  kernel")
    cells = []
    for dtype in arguments.dtypes.split(","):
        for shape in arguments.shapes.split(","):
            for causal in arguments.causal.split(","):
                cell = Cell(library, dtype, shape, causal == "1")
                result = measure(cell)
                ours = statistics.median(times[0] for times in result["seconds"])
                peer = statistics.median(times[-1] for times in result["seconds"])
                ratios = sorted(times[-1] / times[0] for times in result["seconds"])
                bandwidth = f"  {cell.kv_bytes / ours / 1e9:.1f} GB/s" if cell.q_len < 16 else ""
                print(f"{dtype:5} {shape:18} {'causal' if cell.causal else 'full':6} {cell.flops / ours / 1e9:8.0f}"
                      f" {cell.flops / peer / 1e9:8.0f}          {statistics.median(ratios):6.2f} {ratios[0]:6.2f}"
                      f" {ratios[-1]:6.2f}  {result['error']:8.1e}  {result['kernel']}{bandwidth}", flush=True)
                cells.append({"dtype": dtype, "shape": shape, "causal": cell.causal, "flops": cell.flops, **result})
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps({**header, "cells": cells}, indent=1))


main()
