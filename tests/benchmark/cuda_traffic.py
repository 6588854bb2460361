#!/usr/bin/env python3
"""Holds the modelled device-memory traffic of a backend to a GPU's counters, read by Nsight Compute (ncu).

    cuda_traffic.py build/release/tests/benchmark/cuda_attention_bench --json=traffic.json

Each cell runs in a process of its own: eight launches in a row over copies of the tensors that take 1 GiB and more.
ncu leaves clocks and caches alone, and counts no more than fits into one pass, so that nothing is replayed: a launch
finds in L2 what the one before it left there, and pays for writing back what that one wrote, as it does in use. The
median over the launches stands for the cell. Exits 1 when a modelled figure is off by more than the limit, or when the
kernel that ran is not the one that the plan names; 77 when there is no GPU or no ncu.
"""

import argparse
import csv
import glob
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

CELLS = ("d128_full_s2k,d128_causal_s2k,d128_full_s8k,d128_causal_s8k,d128_full_s64k,d128_causal_s64k,"
         "ragged_full,ragged_causal,window1k_s16k")
READ, WRITE, TIME = "dram__bytes_read.sum", "dram__bytes_write.sum", "gpu__time_duration.sum"
EXIT_MISSING = 77
BASE_UNITS = {"": 1, "byte": 1, "nsecond": 1, "ns": 1}  # others mean that --print-units was not honoured


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", help="the cuda_attention_bench to run")
    parser.add_argument("--cells", default=CELLS, help="comma-separated names")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--backend", default="cuda_fused")
    parser.add_argument("--launches", type=int, default=8)
    parser.add_argument("--limit", type=float, default=0.10, help="how far the model may be off")
    parser.add_argument("--metrics", default="", help="further metrics to record; may need more than one pass")
    parser.add_argument("--json")
    return parser.parse_args()


def find_ncu():
    places = [shutil.which("ncu"), "/usr/local/cuda/bin/ncu", *sorted(glob.glob("/opt/nvidia/nsight-compute/*/ncu"))]
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


def read_counters(log, metrics):
    """The launches in ncu's raw page: dicts of kernel name and the named metrics in base units."""
    rows = list(csv.reader(line for line in log.splitlines() if line.startswith('"')))
    if len(rows) < 3:
        raise RuntimeError("ncu counted nothing:\n" + log)
    names, units = rows[0], rows[1]
    launches = []
    for row in rows[2:]:
        launch = {"kernel": row[names.index("Kernel Name")]}
        for name, unit, value in zip(names, units, row):
            if name in metrics:
                if unit not in BASE_UNITS and name in (READ, WRITE, TIME):
                    raise RuntimeError(f"ncu gave {name} in {unit}, expected base units")
                launch[name] = float(value.replace(",", ""))
        launches.append(launch)
    return launches


def run_cell(ncu, arguments, cell):
    metrics = [READ, WRITE, TIME] + [name for name in arguments.metrics.split(",") if name]
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / "ncu.csv"
        command = [ncu, "--clock-control", "none", "--cache-control", "none", "--profile-from-start", "off",
                   "--metrics", ",".join(metrics), "--print-units", "base", "--print-kernel-base", "function",
                   "--csv", "--page", "raw", "--log-file", str(log),
                   arguments.benchmark, f"--traffic={cell}", f"--launches={arguments.launches}",
                   f"--dtypes={arguments.dtype}", f"--backends={arguments.backend}"]
        done = subprocess.run(command, capture_output=True, text=True)
        text = log.read_text() if log.exists() else ""
    if "skipped:" in done.stderr:  # ncu does not hand on every exit code
        sys.stderr.write(done.stderr)
        sys.exit(EXIT_MISSING)
    plans = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"cell"')]
    if done.returncode != 0 or len(plans) != 1:
        raise RuntimeError(f"{' '.join(command)}\nexited with {done.returncode}\n{done.stdout}{done.stderr}{text}")
    return plans[0], read_counters(text, metrics)


def summarise(plan, launches):
    """Per launch of the backend, which may be several kernels."""
    kernels = max(len(launches) // plan["launches"], 1)
    groups = [launches[i:i + kernels] for i in range(0, len(launches), kernels)]

    def median(metric):
        return statistics.median(sum(kernel[metric] for kernel in group) for group in groups)

    names = sorted({launch["kernel"] for launch in launches})
    return {**plan, "kernels_seen": names, "kernel_agrees": plan["kernel"] in names,
            "read_bytes": median(READ), "write_bytes": median(WRITE), "microseconds": median(TIME) / 1e3,
            "read_ratio": plan["hbm_read_bytes"] / median(READ), "write_ratio": plan["hbm_write_bytes"] / median(WRITE),
            "raw": launches}


def main():
    arguments = parse_arguments()
    ncu = find_ncu()
    if ncu is None:
        print("cuda_traffic.py: skipped: ncu (Nsight Compute) is not installed", file=sys.stderr)
        sys.exit(EXIT_MISSING)
    print(f"{'cell':18} {'read MB':>9} {'model':>9} {'ratio':>6} {'write MB':>9} {'model':>9} {'ratio':>6} {'us':>9}"
          "  kernel")
    results, wrong = [], []
    for cell in arguments.cells.split(","):
        result = summarise(*run_cell(ncu, arguments, cell))
        results.append(result)
        notes = [f"{what} is off by more than {arguments.limit:.0%}" for what in ("read", "write")
                 if not abs(result[f"{what}_ratio"] - 1) <= arguments.limit]
        if not result["kernel_agrees"]:
            notes.append(f"ncu saw {', '.join(result['kernels_seen'])}")
        wrong += [cell] if notes else []
        print(f"{cell:18} {result['read_bytes'] / 1e6:9.1f} {result['hbm_read_bytes'] / 1e6:9.1f}"
              f" {result['read_ratio']:6.3f} {result['write_bytes'] / 1e6:9.1f} {result['hbm_write_bytes'] / 1e6:9.1f}"
              f" {result['write_ratio']:6.3f} {result['microseconds']:9.1f}  {result['kernel']}"
              f"{'  WRONG: ' if notes else ''}{'; '.join(notes)}", flush=True)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps({"benchmark": "cuda_traffic", "limit": arguments.limit,
                                                            "cells": results}, indent=1))
    ratios = ", ".join(f"{what} {min(values):.2f}-{max(values):.2f}" for what, values in (
        (what, [result[f"{what}_ratio"] for result in results]) for what in ("read", "write")))
    print(f"{len(results)} cells, {len(wrong)} wrong{': ' if wrong else ''}{', '.join(wrong)}; modelled over counted:"
          f" {ratios}, limit {arguments.limit:.0%}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
