#!/usr/bin/env python3
"""Runs tessera-gpu-checks of an unpacked tarball on the CPU backends, small, and checks its report.

Usage: gpu_checks_test.py TREE OUT
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SMALL = ("--fused=cpu_fused", "--standard=cpu_unfused", "--filter=causal_q19", "--cases=6", "--n=64,128",
         "--memory_n=256", "--quick", "--step_timeout=120")
STEPS = ("conformance.cpu_fused", "conformance.cpu_unfused", "verify.cpu_fused", "verify.cpu_unfused", "memory",
         "compare.bf16", "compare.fp32", "kernel.bf16", "kernel.fp32")
NO_GPU = 77


def run(tree: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # No GPU, even where there is one: what is tested here is the machinery.
    environment = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([f"{tree}/bin/tessera-gpu-checks", *arguments], env=environment, capture_output=True,
                          text=True, timeout=300)


def step_outcomes(out: str, name: str) -> list[str]:
    return [step["outcome"] for step in json.loads(Path(out, name, "gpu-checks.json").read_text())["steps"]]


def check_report(out: Path) -> None:
    report = json.loads((out / "gpu-checks.json").read_text())
    for key in ("version", "commit", "date", "gpus", "gpus_after", "server_info"):
        assert key in report, f"the report has no {key}"
    assert report["server_info"]["devices"], "the report names no device"
    assert tuple(step["name"] for step in report["steps"]) == STEPS, [step["name"] for step in report["steps"]]
    steps = {step["name"]: step for step in report["steps"]}
    for name, step in steps.items():
        assert step["outcome"] == "passed", f"{name}: {step['outcome']}, {step['message']}"
        assert step["seconds"] > 0, f"{name} took no time"
        assert (out / f"{name}.log").is_file(), f"{name} has no log"
    rows = steps["compare.fp32"]["data"]["rows"]
    assert [row["n"] for row in rows] == [64, 128], rows
    assert all(len(row["fused"]["compute_us"]) == 7 for row in rows), "the raw rounds are not there"
    assert len(steps["memory"]["data"]["requests"]) == 5, steps["memory"]["data"]
    assert steps["kernel.bf16"]["data"]["benchmarks"], "the kernel benchmark has no rounds"


def main(tree: str, out: str) -> int:
    refused = run(tree, f"--out={out}/refused")
    assert refused.returncode == NO_GPU and "no CUDA device" in refused.stderr, refused
    unknown = run(tree, f"--out={out}/refused", "--fused=cpu_fused", "--steps=nonsense")
    assert unknown.returncode == 2 and "there is no step 'nonsense'" in unknown.stderr, unknown

    small = run(tree, f"--out={out}/small", *SMALL)
    print(small.stdout, small.stderr)
    assert small.returncode == 0, f"exit code {small.returncode}"
    check_report(Path(out, "small"))

    required = run(tree, f"--out={out}/refused", "--require_all")
    assert required.returncode == 1 and "no CUDA device" in required.stderr, required
    typo = run(tree, f"--out={out}/refused", "--fused=cuda_fuse")
    assert typo.returncode == 2 and "no such backend" in typo.stderr, typo

    # Without one of the two backends, what compares them is skipped, or fails with --require_all.
    one = ("--fused=cpu_fused", "--steps=conformance,compare.bf16,kernel.bf16", "--filter=causal_q19")
    for options, exit_code, missing in (((), 0, "skipped"), (("--require_all",), 1, "failed")):
        alone = run(tree, f"--out={out}/alone", *one, *options)  # the standard one is cuda_standard
        assert alone.returncode == exit_code and step_outcomes(out, "alone") == ["passed", *[missing] * 3], alone

    # A step that cannot end in time fails, and the others still run. (Not that they pass: the machine may be busy.)
    late = run(tree, f"--out={out}/late", "--fused=cpu_fused", "--standard=cpu_unfused", "--cases=100000",
               "--step_timeout=5", "--steps=verify.cpu_fused,compare.fp32", "--n=64")
    outcomes = step_outcomes(out, "late")
    assert late.returncode == 1 and len(outcomes) == 2 and outcomes[0] == "failed", late
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
