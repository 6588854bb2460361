#!/usr/bin/env python3
"""What cuda_sweep.py does without a GPU: cells, bars, verdicts, tables, arguments, and the library's struct.

    cuda_sweep_test.py [libtessera_kernels_cuda_shared.so]
"""

import _ctypes
import contextlib
import ctypes
import gc
import io
import json
import pathlib
import sys
import tempfile
import unittest

import cuda_sweep
import peer_library
import sweep_cells
import sweep_report

LIBRARY = None  # from the command line


def contender(flops, *milliseconds, **facts):
    return {"flops": flops, "milliseconds": list(milliseconds), "errors": {"relative": 2e-3}, "wrong": "",
            "kernel": "kernel_name", **facts}


def cell_of(criteria, **contenders):
    return {"group": "main", "cell": "d128 causal 16k", "criteria": criteria, "contenders": contenders,
            "matmul": contender(8e11, 1.0, 1.0, 1.0)}


class CellsTest(unittest.TestCase):
    def test_main_has_36_cells_of_16k_tokens_and_hidden_size_2048(self):
        cells = sweep_cells.select(("main",), seed=1)
        self.assertEqual(len(cells), 36)
        for cell in cells:
            workload = cell.runs["ours"]
            self.assertEqual(sum(queries for queries, _ in workload.lengths), 16384)
            self.assertEqual(workload.q_heads * workload.dim, 2048)

    def test_bars_are_those_of_the_cell(self):
        bars = {cell.name: cell.criteria[0]["bar"] for cell in sweep_cells.select(("main", "gqa"), seed=1)}
        self.assertEqual(bars["d128 causal 16k"], 1.16)
        self.assertEqual(bars["d64 full 512"], 1)
        self.assertEqual(bars["d256 full 8k"], 1.09)
        self.assertEqual(bars["d128 32q/8kv causal 8k"], 1.15)
        self.assertIsNone(bars["d128 32q/8kv causal 2k"])

    def test_selection_by_head_dim_filter_and_quick(self):
        cells = sweep_cells.select(("main", "window"), 1, quick=True, head_dims=(128,), filters=("causal", "window/"))
        self.assertEqual([cell.full_name for cell in cells],
                         ["main/d128 causal 1k", "main/d128 causal 4k", "main/d128 causal 16k",
                          "window/d128 1k of 16k"])

    def test_names_differ(self):
        names = [cell.full_name for cell in sweep_cells.select(sweep_cells.GROUPS, seed=1)]
        self.assertEqual(len(names), len(set(names)))

    def test_flops_count_visible_pairs(self):
        def flops(lengths, **options):
            return sweep_cells.Workload(lengths, 2, 2, 8, **options).flops

        self.assertEqual(flops(((10, 10),)), 4 * 2 * 8 * 100)
        self.assertEqual(flops(((10, 10),), causal=True), 4 * 2 * 8 * 50)
        self.assertEqual(flops(((2, 5),), causal=True), 4 * 2 * 8 * (4 + 5))
        self.assertEqual(flops(((4, 2),), causal=True), 4 * 2 * 8 * (1 + 2))  # two rows see nothing
        self.assertEqual(flops(((10, 10),), causal=True, window=3), 4 * 2 * 8 * (1 + 2 + 8 * 3))
        self.assertEqual(flops(((10, 10),), dim_v=4), 2 * 2 * (8 + 4) * 100)

    def test_uniform_batch_has_as_much_work_as_the_ragged_one(self):
        for seed in range(20):
            for cell in sweep_cells.select(("ragged",), seed):
                ragged, uniform = cell.runs["ragged"], cell.runs["uniform"]
                self.assertEqual(len(ragged.lengths), 64)
                self.assertTrue(all(16 <= length <= 16384 for length, _ in ragged.lengths))
                self.assertAlmostEqual(uniform.flops / ragged.flops, 1, delta=0.05)

    def test_further_builds_have_the_same_criteria_and_the_first_to_beat(self):
        cell = sweep_cells.select(("features",), 1, filters=("d64 full 4k",))[0]
        criteria = [(c["of"], c["over"], c["bar"]) for c in sweep_cells.criteria_of(cell, ["ours", "new"], False)]
        self.assertIn(("softcap", "plain", 0.6), criteria)
        self.assertIn(("softcap@new", "plain@new", 0.6), criteria)
        self.assertIn(("softcap@new", "softcap", None), criteria)

    def test_without_peers_the_rate_is_left(self):
        cell = sweep_cells.select(("main",), 1)[0]
        self.assertEqual([(c["of"], c["kind"]) for c in sweep_cells.criteria_of(cell, ["ours"], True)],
                         [("ours", "rate")])


class ReportTest(unittest.TestCase):
    def verdict(self, criterion, **contenders):
        return sweep_report.judge(cell_of([criterion], **contenders))[0]["verdict"]

    def test_ratio_is_the_median_of_the_rounds(self):
        cell = cell_of([sweep_cells.Criterion("ours", "cudnn")], ours=contender(100, 1, 2, 4),
                       cudnn=contender(100, 2, 3, 4))
        row = sweep_report.judge(cell)[0]
        self.assertEqual((row["least"], row["median"], row["most"]), (1, 1.5, 2))

    def test_verdicts_at_bar_slack_and_aim(self):
        bar = sweep_cells.Criterion("ours", "cudnn", bar=1.1, slack=0.97, aim=1.05)
        for ratio, verdict in ((1.06, "below"), (1.07, "pass"), (1.15, "pass"), (1.16, "aim")):
            with self.subTest(ratio=ratio):
                self.assertEqual(self.verdict(bar, ours=contender(100, 1.0), cudnn=contender(100, ratio)), verdict)

    def test_cost_is_time_over_the_share_of_flops(self):
        bar = sweep_cells.Criterion("window", "causal", kind="cost", bar=1.45)
        causal = contender(800, 8.0)
        self.assertEqual(self.verdict(bar, window=contender(100, 1.44), causal=causal), "pass")
        self.assertEqual(self.verdict(bar, window=contender(100, 1.46), causal=causal), "below")

    def test_rate_is_in_tflops(self):
        bar = sweep_cells.Criterion("fp8", kind="rate", bar=900)
        self.assertEqual(self.verdict(bar, fp8=contender(9.01e11, 1.0)), "pass")
        self.assertEqual(self.verdict(bar, fp8=contender(8.99e11, 1.0)), "below")

    def test_what_is_wrong_or_missing_is_not_passed(self):
        bar = sweep_cells.Criterion("ours", "cudnn", bar=1)
        cudnn = contender(100, 2.0)
        self.assertEqual(self.verdict(bar, ours=contender(100, 1.0, wrong="two runs differ"), cudnn=cudnn), "WRONG")
        self.assertEqual(self.verdict(bar, ours={"flops": 100, "not_run": "no kernel"}, cudnn=cudnn), "not run")
        self.assertEqual(self.verdict(bar, ours=contender(100, 1.0)), "not run")

    def test_table_has_both_peers_in_one_line(self):
        criteria = sweep_cells.against_peers("ours", bar=1.16)
        cell = cell_of(criteria, ours=contender(6e11, 1.0), cudnn=contender(6e11, 1.2), fa2=contender(6e11, 2.0))
        lines = sweep_report.table_of(cell)
        self.assertEqual(len(lines), 1)
        for text in ("main/d128 causal 16k", "600.0", "75%", "500.0", "1.200", "1.16", "pass", "300.0", "2.00",
                     "2.0e-03", "kernel_name"):
            self.assertIn(text, lines[0])

    def test_summary_counts_and_names_what_is_wrong(self):
        criteria = sweep_cells.against_peers("ours", bar=1.0)
        good = cell_of(criteria, ours=contender(1, 1.0), cudnn=contender(1, 1.2))
        bad = cell_of(criteria, ours=contender(1, 1.0, wrong="two runs differ"), cudnn=contender(1, 1.2))
        late = {"group": "main", "cell": "d64 full 512", "not_run": "no time left"}
        self.assertEqual(sweep_report.summary([good])[1:], (False, False))
        line, wrong, missed = sweep_report.summary([good, bad, late])
        self.assertTrue(wrong and missed)
        self.assertIn("WRONG: main/d128 causal 16k ours", line)
        self.assertIn("1 cells not run", line)

    def test_missed_bars_are_listed_the_furthest_first(self):
        criteria = sweep_cells.against_peers("ours", bar=1.0)
        cells = [cell_of(criteria, ours=contender(1, 1.0), cudnn=contender(1, ratio)) for ratio in (0.9, 1.2, 0.8)]
        self.assertEqual([line.split()[-3] for line in sweep_report.missed_bars(cells)], ["0.800,", "0.900,"])

    def test_fp8_error_growth(self):
        def fp8_cell(name, error):
            return {"group": "fp8", "cell": name, "contenders": {"fp8": contender(1, 1.0, errors={"relative": error})}}

        cells = [fp8_cell("d128 full 4k", 0.02), fp8_cell("d128 full 16k", 0.02), fp8_cell("d128 full 64k", 0.025)]
        rows = sweep_report.fp8_growth(cells, (4096, 16384, 65536), 1.1)
        self.assertEqual([(row["mask"], row["verdict"]) for row in rows], [("full", "below")])
        self.assertEqual(sweep_report.fp8_growth(cells[:2], (4096, 16384, 65536), 1.1), [])

    def test_series_of_a_panel(self):
        cell = cell_of([], ours=contender(6e11, 1.0), cudnn={"flops": 1, "not_run": "no"})
        self.assertEqual(sweep_report.series([cell], 128, "causal"),
                         {"ours": [(16384, 600.0)], "matmul": [(16384, 800.0)]})
        self.assertEqual(sweep_report.series([cell], 64, "causal"), {})


class CommandLineTest(unittest.TestCase):
    def parse(self, *arguments):
        return cuda_sweep.parse_arguments(list(arguments))

    def test_builds_are_named(self):
        options = self.parse("a/lib.so", "b/lib.so", "--variant=new=c.so")
        self.assertEqual(options.builds, {"ours": "a/lib.so", "b": "b/lib.so", "new": "c.so"})
        self.assertEqual(self.parse("--variant=x=a.so", "--variant=y=b.so").builds, {"x": "a.so", "y": "b.so"})

    def test_wrong_arguments_are_refused(self):
        for arguments in ((), ("a.so", "--cells=nonsense"), ("a.so", "--variant=b.so"), ("a.so", "--rounds=0"),
                          ("--variant=x=a.so", "--variant=x=b.so")):
            with self.subTest(arguments=arguments), self.assertRaises(SystemExit) as stop, \
                    contextlib.redirect_stderr(io.StringIO()):
                self.parse(*arguments)
            self.assertEqual(stop.exception.code, 2)

    def test_shows_an_earlier_run(self):
        criteria = sweep_cells.against_peers("ours", bar=1.16)
        cell = cell_of(criteria, ours=contender(6e11, 1.0), cudnn=contender(6e11, 1.1), fa2=contender(6e11, 2.0))
        report = {"device": "a GPU", "commit": "0", "date": "today", "cells": [cell]}
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "sweep.json"
            path.write_text(json.dumps(report))
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                plain = cuda_sweep.main([f"--from={path}"])
                strict = cuda_sweep.main([f"--from={path}", "--require-bars"])
        self.assertEqual((plain, strict), (0, 1))
        self.assertIn("0 of 1 bars held", text.getvalue())


class LibraryTest(unittest.TestCase):
    def test_what_a_problem_points_to_stays(self):
        problem = peer_library.Problem()
        problem.sequences = (peer_library.Sequence * 3)()
        problem.sequences[2].q_len = 7
        problem.alibi_slopes = peer_library.floats([0.5, 0.25])
        problem.q_scales = peer_library.Scales(peer_library.floats([2.0, 3.0]), 1, 0)
        gc.collect()
        self.assertEqual((problem.sequences[2].q_len, problem.alibi_slopes[1], problem.q_scales.data[1]),
                         (7, 0.25, 3.0))

    def test_the_struct_is_the_library_s(self):
        if LIBRARY is None:
            return  # built without CUDA
        first = peer_library.PeerLibrary(LIBRARY)
        self.assertEqual(first.library.tessera_peer_problem_bytes(), ctypes.sizeof(peer_library.Problem))

    def test_another_file_is_refused(self):
        for path in ("/nonexistent.so", _ctypes.__file__):
            with self.assertRaises(peer_library.LibraryError):
                peer_library.PeerLibrary(path)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].endswith(".so"):
        LIBRARY = sys.argv.pop(1)
    unittest.main()
