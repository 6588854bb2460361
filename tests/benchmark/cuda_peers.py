#!/usr/bin/env python3
"""Times the CUDA kernels against PyTorch's attention in one process, round about.

    cuda_peers.py build/release/tests/benchmark/libtessera_kernels_cuda_shared.so --json=peers.json

Groups of cells (--only=):
  prefill   cuda_fused, FlashAttention-2 and cuDNN: bf16, 16k tokens of hidden size 2048, d 64 and 128, full and causal
  wide      the same at d 256
  gqa       the same with 32 query heads over 8 kv heads, causal, one sequence
  standard  cuda_standard, PyTorch's softmax(q @ k.T) @ v and cuda_fused: bf16, d 128, 4 and 16 heads, 1k ... 16k tokens
  fp32      cuda_fused, cuda_standard, PyTorch's softmax(q @ k.T) @ v and its memory-efficient SDPA in fp32, 4 heads

Every contender's result is compared with float64 on sampled rows of every head before it is timed; ours must be within
the bounds, PyTorch's error is recorded. Rounds take turns over copies of the tensors that take 1 GiB and more, timed by
CUDA events. "a over b 1.20x (1.18-1.21)": a is 1.2 times as fast as b, the median over the rounds and their range; of
several ways to write b, the fastest counts. FLOPs are 4 * B * H * Sq * Skv * D, halved for causal.
"""

import argparse
import ctypes
import json
import math
import os
import pathlib
import statistics
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import peer_library
from gpu_timing import EXIT_MISSING, Matmul, ROTATED_BYTES, commit, gpu_state, timed

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BOUNDS = {"fp32": 1e-6, "fp16": 4e-4, "bf16": 3e-3}
GROUPS = ("prefill", "wide", "gqa", "standard", "fp32")
WRITTEN = ("torch_scaled_q", "torch_scaled_scores")
# What is compared: a contender, and others of which the fastest counts.
PAIRS = {
    "prefill": (("cuda_fused", ("torch_fa2",)), ("cuda_fused", ("torch_cudnn",))),
    "wide": (("cuda_fused", ("torch_fa2",)), ("cuda_fused", ("torch_cudnn",))),
    "gqa": (("cuda_fused", ("torch_fa2",)), ("cuda_fused", ("torch_cudnn",))),
    "standard": (("cuda_standard", WRITTEN), ("cuda_fused", ("cuda_standard",)), ("cuda_fused", WRITTEN)),
    "fp32": (("cuda_fused", ("cuda_standard",)), ("cuda_fused", (*WRITTEN, "torch_efficient"))),
}
SAMPLED_ROWS = 64


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--only", default="prefill,gqa,standard,fp32",
                        help="comma-separated groups: " + ",".join(GROUPS))
    parser.add_argument("--lengths", default="", help="only these tokens a sequence, comma-separated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--round-ms", type=float, default=8, help="how long a round of one contender should take")
    parser.add_argument("--json")
    return parser.parse_args()


class Problem:
    """Random tensors of one shape, in enough copies; `heads_first`: (batch, heads, tokens, dim) in memory."""

    def __init__(self, dtype, batch, q_heads, kv_heads, length, dim, causal, heads_first):
        self.dtype, self.batch, self.q_heads, self.kv_heads = dtype, batch, q_heads, kv_heads
        self.length, self.dim, self.causal, self.heads_first = length, dim, causal, heads_first
        self.copies = []
        while not self.copies or len(self.copies) * self.bytes() < ROTATED_BYTES:
            q, k, v = (self.tensor(heads) for heads in (q_heads, kv_heads, kv_heads))
            self.copies.append((q, k, v, torch.empty_like(q)))
        self.flops = 4 * batch * q_heads * length * length * dim // (2 if causal else 1)

    def bytes(self):
        return sum(tensor.numel() * tensor.element_size() for tensor in self.copies[0])

    def tensor(self, heads):
        """A (batch, heads, tokens, dim) view."""
        shape = (self.batch, heads, self.length, self.dim) if self.heads_first else (
            self.batch, self.length, heads, self.dim)
        tensor = torch.randn(shape, device="cuda", dtype=torch.float32).to(DTYPES[self.dtype])
        return tensor if self.heads_first else tensor.transpose(1, 2)

    def reference(self):
        """Rows, and what float64 makes of them on the first copy."""
        q, k, v, _ = self.copies[0]
        rows = torch.cat([torch.randint(0, self.length, (SAMPLED_ROWS - 1,)), torch.tensor([self.length - 1])]).cuda()
        group = self.q_heads // self.kv_heads
        expected = []
        for b in range(self.batch):  # one at a time: float64 copies are large
            keys = k[b].double().repeat_interleave(group, 0)
            values = v[b].double().repeat_interleave(group, 0)
            scores = q[b][:, rows].double() @ keys.transpose(1, 2) / math.sqrt(self.dim)
            if self.causal:
                scores.masked_fill_(torch.arange(self.length, device="cuda")[None, :] > rows[:, None], -math.inf)
            expected.append(torch.softmax(scores, -1) @ values)
        return rows, torch.stack(expected)


def make_call(problem, copy):
    """tessera_attention_problem of one copy of the tensors."""
    call = peer_library.Problem()
    call.struct_size = ctypes.sizeof(call)
    call.num_q_heads, call.num_kv_heads = problem.q_heads, problem.kv_heads
    call.head_dim_qk = call.head_dim_v = problem.dim
    call.scale = 1 / math.sqrt(problem.dim)
    for name, tensor in zip(("q", "k", "v", "o"), copy):  # (batch, heads, tokens, dim)
        setattr(call, name, peer_library.Tensor(tensor.data_ptr(), tensor.numel(), tensor.stride(2), tensor.stride(1),
                                                peer_library.DTYPES[problem.dtype]))
    sequences = (peer_library.Sequence * problem.batch)()
    for b, sequence in enumerate(sequences):
        sequence.q_begin = b * copy[0].stride(0) // copy[0].stride(2)
        sequence.kv_begin = b * copy[1].stride(0) // copy[1].stride(2)
        sequence.q_len = sequence.kv_len = problem.length
        sequence.window_left, sequence.window_right = -1, 0 if problem.causal else -1
    call.sequences, call.num_sequences = sequences, problem.batch
    return call


class Ours:
    def __init__(self, library, problem, standard):
        self.library, self.problem, self.standard = library, problem, standard
        self.calls = [make_call(problem, copy) for copy in problem.copies]
        self.kernel, self.workspace_bytes = library.plan(self.calls[0], standard)
        self.workspace = torch.empty(max(self.workspace_bytes, 1), dtype=torch.uint8, device="cuda")
        self.stream = torch.cuda.current_stream().cuda_stream

    def __call__(self, turn):
        copy = turn % len(self.calls)
        self.library.enqueue(self.calls[copy], self.standard, self.workspace.data_ptr(), self.stream)
        return self.problem.copies[copy][3]


class Sdpa:
    """PyTorch's scaled_dot_product_attention by one of its backends."""

    def __init__(self, problem, backend):
        self.problem, self.backend = problem, backend

    def __call__(self, turn):
        q, k, v, _ = self.problem.copies[turn % len(self.problem.copies)]
        with sdpa_kernel([self.backend]):
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=self.problem.causal, enable_gqa=self.problem.q_heads != self.problem.kv_heads)


class Written:
    """softmax(q @ k.T) @ v as PyTorch's users write it; `scale_scores`: the scale on the scores, not on q."""

    def __init__(self, problem, scale_scores):
        self.problem, self.scale_scores = problem, scale_scores

    def __call__(self, turn):
        q, k, v, _ = self.problem.copies[turn % len(self.problem.copies)]
        scale = 1 / math.sqrt(self.problem.dim)
        if self.scale_scores:
            return torch.softmax(q @ k.transpose(-2, -1) * scale, -1) @ v
        return torch.softmax((q * scale) @ k.transpose(-2, -1), -1) @ v


def contenders_of(group, library, problem):
    """Name -> function that makes a contender."""
    fused = {"cuda_fused": lambda: Ours(library, problem, standard=False)}
    standard = {"cuda_standard": lambda: Ours(library, problem, standard=True)}
    written = dict(zip(WRITTEN, (lambda: Written(problem, scale_scores=False),
                                 lambda: Written(problem, scale_scores=True))))
    if group == "standard":
        return {**fused, **standard, **written}
    if group == "fp32":
        return {**fused, **standard, **written,
                "torch_efficient": lambda: Sdpa(problem, SDPBackend.EFFICIENT_ATTENTION)}
    return {**fused, "torch_fa2": lambda: Sdpa(problem, SDPBackend.FLASH_ATTENTION),
            "torch_cudnn": lambda: Sdpa(problem, SDPBackend.CUDNN_ATTENTION)}


def cells_of(group):
    """(name, arguments of Problem)"""
    if group in ("prefill", "wide"):
        for dim in ((64, 128) if group == "prefill" else (256,)):
            for causal in (False, True):
                for length in (512, 1024, 2048, 4096, 8192, 16384):
                    heads = 2048 // dim
                    yield (f"d{dim} {'causal' if causal else 'full'} {length}", length,
                           ("bf16", 16384 // length, heads, heads, length, dim, causal, False))
    elif group == "gqa":
        for length in (2048, 8192, 32768):
            yield f"d128 32q/8kv causal {length}", length, ("bf16", 1, 32, 8, length, 128, True, False)
    else:
        for heads in ((4, 16) if group == "standard" else (4,)):
            for length in (1024, 2048, 4096, 8192, 16384):
                yield (f"d128 {heads} heads full {length}", length,
                       ("bf16" if group == "standard" else "fp32", 1, heads, heads, length, 128, False, True))


def check(name, contender, problem, output, rows, expected):
    """Relative error on the sampled rows; ours must be within the bound, and write every element."""
    error = ((output[:, :, rows].double() - expected).norm() / expected.norm()).item()
    bound = BOUNDS[problem.dtype] * (max(1, math.sqrt(problem.length / 4096)) if problem.dtype == "fp32" else 1)
    if isinstance(contender, Ours) and not (error <= bound and not output.isnan().any().item()):
        sys.exit(f"{name}: wrong result: relative error {error:.2e}, bound {bound:.1e}, or elements not written")
    return error


def measure(group, library, problem, arguments):
    rows, expected = problem.reference()
    contenders, results = {}, {}
    for name, make in contenders_of(group, library, problem).items():
        problem.copies[0][3].fill_(math.nan)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        try:
            contender = make()
            output = contender(0)
            torch.cuda.synchronize()
        except RuntimeError as refusal:  # torch.OutOfMemoryError too
            results[name] = {"not_run": str(refusal).splitlines()[0]}
            continue
        # Beyond inputs; of ours the workspace, of PyTorch's the output as well.
        results[name] = {"peak_bytes": torch.cuda.max_memory_allocated() - before,
                         "error": check(name, contender, problem, output, rows, expected), "milliseconds": []}
        if isinstance(contender, Ours):
            results[name].update(kernel=contender.kernel, workspace_bytes=contender.workspace_bytes)
        contenders[name] = contender
    launches = {}
    for name, contender in contenders.items():
        timed(contender, 0, 2)
        launches[name] = max(2, min(200, round(arguments.round_ms / timed(contender, 0, 2))))
    for turn in range(arguments.rounds):
        for name, contender in contenders.items():
            results[name]["milliseconds"].append(timed(contender, turn * 3, launches[name]))
    return results


def ran(results, name):
    return "milliseconds" in results.get(name, {})


def compare(group, results):
    """For each pair of the group that ran: how many times as fast the first is."""
    comparisons = []
    for name, others in PAIRS[group]:
        others = [other for other in others if ran(results, other)]
        if not ran(results, name) or not others:
            continue
        other = min(others, key=lambda other: statistics.median(results[other]["milliseconds"]))
        ratios = sorted(b / a for a, b in zip(results[name]["milliseconds"], results[other]["milliseconds"]))
        comparisons.append({"of": name, "over": other, "median": statistics.median(ratios), "least": ratios[0],
                            "most": ratios[-1]})
    return comparisons


def print_cell(cell, flops, results, comparisons):
    for name, result in results.items():
        print(f"{cell:26} {name:20}", end="")
        if not ran(results, name):
            print(f" not run: {result['not_run']}")
            continue
        milliseconds = statistics.median(result["milliseconds"])
        spread = (max(result["milliseconds"]) - min(result["milliseconds"])) / milliseconds
        print(f" {milliseconds:9.4f} {flops / milliseconds / 1e9:8.1f} {spread:7.1%} {result['error']:8.1e}"
              f" {result['peak_bytes'] / 2**20:9.1f}")
    for comparison in comparisons:
        print("{:26} {of} over {over} {median:.2f}x ({least:.2f}-{most:.2f})".format("", **comparison))
    sys.stdout.flush()


def summary(cells):
    """One line: for each two that were compared, the geometric mean of the cells' medians, the least and the most."""
    medians = {}
    for comparison in (comparison for cell in cells for comparison in cell["comparisons"]):
        medians.setdefault((comparison["of"], comparison["over"]), []).append(comparison["median"])
    pairs = [f"{of} over {over} {statistics.geometric_mean(values):.2f}x ({min(values):.2f}-{max(values):.2f},"
             f" {len(values)} cells)" for (of, over), values in medians.items()]
    return f"{len(cells)} cells: " + ("; ".join(pairs) or "nothing to compare with ran")


def measure_ceilings():
    def median(function, launches):
        function(0)
        return statistics.median(timed(function, 0, launches) for _ in range(7))

    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copy = 2 * source.numel() / median(lambda turn: target.copy_(source), 4) / 1e6
    matmul = Matmul.flops / median(Matmul(), 4) / 1e9
    return {"copy_gb_per_s": copy, "matmul_tflop_per_s": matmul}


def main():
    arguments = parse_arguments()
    unknown = set(arguments.only.split(",")) - set(GROUPS)
    if unknown:
        sys.exit(f"--only: no such group: {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    if not torch.cuda.is_available():
        print("cuda_peers.py: skipped: PyTorch finds no GPU", file=sys.stderr)
        sys.exit(EXIT_MISSING)
    torch.backends.cuda.matmul.allow_tf32 = False
    library = peer_library.PeerLibrary(arguments.library)
    seed = int.from_bytes(os.urandom(4), "little")
    torch.manual_seed(seed)
    header = {"benchmark": "cuda_peers", "commit": commit(), "date": time.strftime("%Y-%m-%d"), "seed": seed,
              "device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
              "cudnn": torch.backends.cudnn.version(), "rounds": arguments.rounds,
              "ceilings": measure_ceilings(), "state_begin": gpu_state()}
    print(", ".join(f"{key} {value}" for key, value in header.items()))
    print(f"{'cell':26} {'contender':20} {'ms':>9} {'TFLOP/s':>8} {'spread':>7} {'error':>8}"
          f" {'peak MiB':>9}")
    cells = []
    for group in arguments.only.split(","):
        print(f"-- {group}")
        for name, length, shape in cells_of(group):
            if arguments.lengths and str(length) not in arguments.lengths.split(","):
                continue
            problem = Problem(*shape)
            results = measure(group, library, problem, arguments)
            comparisons = compare(group, results)
            print_cell(name, problem.flops, results, comparisons)
            cells.append({"group": group, "cell": name, "flops": problem.flops, "copies": len(problem.copies),
                          "contenders": results, "comparisons": comparisons})
            del problem
            torch.cuda.empty_cache()
    print(summary(cells))
    if arguments.json:
        report = {**header, "state_end": gpu_state(), "cells": cells}
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
