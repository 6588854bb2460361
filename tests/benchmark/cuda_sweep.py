#!/usr/bin/env python3
"""Sweeps the fused CUDA kernel over head dims, masks, lengths and features, in turn with its peers.

    cuda_sweep.py build/release/tests/benchmark/libtessera_kernels_cuda_shared.so --json=sweep.json --png=sweep.png

Groups of cells (--cells=):
  main      bf16, d 64, 128, 256, full and causal, 512 ... 16k of 16k tokens, hidden size 2048: ours, cuDNN and
            FlashAttention-2
  gqa       32 query heads over 8 kv heads, d 128, causal, one sequence of 2k, 8k, 32k
  features  soft-cap with logits near the cap, ALiBi, sinks, additive and boolean masks over our plain kernel
  ragged    64 sequences of 16 ... 16k over a uniform batch of equal work
  window    a causal window of 1024 over its share of the causal kernel's FLOPs
  fp8       e4m3 with a scale per head, 4k, 16k, 64k; cuDNN's where its Python frontend is installed
  mixed     other head dims, fp16, short queries: no bars

Each of our results is checked before it is timed: sampled rows and their LSE against float64 within the bounds, every
element written, two runs the same to the bit. Rounds take turns over copies of the tensors that take 1 GiB and more,
timed by CUDA events; each cell times an 8192^3 bf16 matmul with them ("%mm"). A ratio is the median over the rounds,
with its least and greatest. "pass": 0.97 of the bar (features, ragged, window, fp8: all of it), "aim": 1.05 of it. Bars
of main and gqa: the ratio to cuDNN on an H200 of the best published kernel. FLOPs are 4 * B * H * Sq * Skv * D, halved
for causal. Exits with 1 when a result is wrong, with --require-bars also when a bar is missed; 77 without a GPU.
"""

import argparse
import json
import os
import pathlib
import sys
import time

import sweep_cells
import sweep_report
from peer_library import LibraryError, PeerLibrary
from sweep_cells import NoGpu

EXIT_MISSING = 77


def comma_separated(kind, known=None):
    def parse(text):
        values = tuple(kind(part) for part in text.split(",") if part)
        unknown = [str(value) for value in values if known and value not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
        return values
    return parse


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="*", help="builds of libtessera_kernels_cuda_shared.so; the first is judged,"
                        " others are timed in the same rounds")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME=PATH",
                        help="a further build, by name; may be repeated")
    parser.add_argument("--cells", type=comma_separated(str, sweep_cells.GROUPS), default=("main", "gqa"),
                        help="comma-separated groups: " + ",".join(sweep_cells.GROUPS))
    parser.add_argument("--head-dim", type=comma_separated(int), default=(), help="only these, comma-separated")
    parser.add_argument("--filter", type=comma_separated(str), default=(),
                        help="only cells whose name (see --list) has one of these texts, comma-separated")
    parser.add_argument("--quick", action="store_true", help="fewer cells")
    parser.add_argument("--ours-only", action="store_true", help="without the peers")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--round-ms", type=float, default=15, help="how long a round of one contender should take")
    parser.add_argument("--budget-seconds", type=float, default=0,
                        help="begin no cell that would end later; 0: no limit")
    parser.add_argument("--seed", type=int, help="of the data and the ragged lengths; by default drawn, and printed")
    parser.add_argument("--expect-kernel", default="", metavar="TEXT",
                        help="a cell whose kernel of ours has not this in its name is wrong")
    parser.add_argument("--require-bars", action="store_true", help="exit with 1 when a bar is missed")
    parser.add_argument("--list", action="store_true", help="print the cells' names, and stop")
    parser.add_argument("--from", dest="earlier", metavar="JSON",
                        help="show what an earlier run wrote; measures nothing")
    parser.add_argument("--json", help="write everything, with all rounds, there; anew after each cell")
    parser.add_argument("--png", help="plot the main group there")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.round_ms <= 0:
        parser.error("--rounds must be at least 1, --round-ms more than 0")
    options.builds = named_builds(options, parser)
    if not options.builds and not options.list and not options.earlier:
        parser.error("no library given")
    return options


def named_builds(options, parser):
    """name -> path; the first is the one that is judged."""
    builds = {}
    for path in options.library:
        name = pathlib.Path(path).resolve().parent.name if builds else "ours"
        builds[name if name not in builds else path] = path
    for variant in options.variant:
        name, separator, path = variant.partition("=")
        if not separator or not name or not path or name in builds:
            parser.error(f"--variant: expected a new NAME=PATH, got '{variant}'")
        builds[name] = path
    return builds


def run_cells(sweep, cells, options, report):
    """Fills report["cells"]."""
    begin, longest = time.monotonic(), 0.0
    for cell in cells:
        elapsed = time.monotonic() - begin
        if options.budget_seconds and elapsed + longest > options.budget_seconds:
            result = {"group": cell.group, "cell": cell.name, "not_run": f"no time left after {elapsed:.0f} s"}
        else:
            result = sweep.measure(cell)
            result["seconds"] = time.monotonic() - begin - elapsed
            longest = max(longest, result["seconds"])
        report["cells"].append(result)
        print("\n".join(sweep_report.table_of(result)), flush=True)
        write_json(report, options.json)


def write_json(report, path):
    if path:
        pathlib.Path(path).write_text(json.dumps(report, indent=1))


def show_end(report, options):
    """The plot and the summary; the exit code."""
    growth = sweep_report.fp8_growth(report["cells"], sweep_cells.FP8_ERROR_LENGTHS, sweep_cells.FP8_ERROR_GROWTH)
    for row in growth:
        print(sweep_report.format_growth(row))
    for line in sweep_report.missed_bars(report["cells"]):
        print(line)
    if options.png:
        title = f"bf16 attention, forward: {report['device']}, commit {report['commit']}, {report['date']}"
        try:
            plotted = sweep_report.plot(report["cells"], title, options.png)
            print(f"plot: {options.png}" if plotted else "plot: none, no cell of the main group")
        except ImportError as error:
            print(f"plot: none, {error}")
    line, wrong, missed = sweep_report.summary(report["cells"], growth)
    report.update(fp8_error_growth=growth, summary=line)
    print(line, flush=True)
    return 1 if wrong or options.require_bars and missed else 0


def print_header(report):
    print(", ".join(f"{key} {value}" for key, value in report.items() if key not in ("cells", "summary",
                                                                                     "fp8_error_growth")))
    print(sweep_report.HEADINGS)


def main(arguments=None):
    options = parse_arguments(arguments)
    if options.earlier:
        report = json.loads(pathlib.Path(options.earlier).read_text())
        print_header(report)
        for cell in report["cells"]:
            print("\n".join(sweep_report.table_of(cell)))
        return show_end(report, options)
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "little")
    cells = sweep_cells.select(options.cells, seed, options.quick, options.head_dim, options.filter)
    if options.list:
        print("\n".join(cell.full_name for cell in cells))
        return 0
    if not cells:
        sys.exit("no cell has all that is asked for; --list shows them")
    try:
        libraries = {name: PeerLibrary(path) for name, path in options.builds.items()}
    except LibraryError as error:
        sys.exit(f"cuda_sweep.py: {error}")
    try:
        from sweep_run import Sweep  # not before: what needs no GPU needs no PyTorch
        sweep = Sweep(options, libraries, seed)
    except (ImportError, NoGpu) as error:
        print(f"cuda_sweep.py: skipped: {error}", file=sys.stderr)
        return EXIT_MISSING
    report = {**sweep.header(), "cells": []}
    print_header(report)
    run_cells(sweep, cells, options, report)
    report["state_end"] = sweep.gpu_state()
    code = show_end(report, options)
    write_json(report, options.json)
    return code


if __name__ == "__main__":
    sys.exit(main())
