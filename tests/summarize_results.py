#!/usr/bin/env python3
"""Adds up the JUnit files of a test run and prints "N passed, N failed, N skipped".

Usage: summarize_results.py RESULTS [BROKEN_STAGE...]

RESULTS holds a folder for each stage: ctest.xml with one entry for each CTest test, <program>.xml with the cases of
each GoogleTest program, or pytest.xml. A program that died, or failed after its last case, has no failed case in its
own file: CTest's entry then counts as one failure. A broken stage in which nothing failed (it did not build, say)
counts as one too. The exit status is 1 when anything failed, or when nothing ran.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path


def outcomes(path: Path) -> Counter[str]:
    """How the cases of one JUnit file ended."""
    return Counter(outcome(case) for case in ElementTree.parse(path).iter("testcase"))


def outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
        return "failed"
    if case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
        return "skipped"
    return "passed"


def stage_outcomes(folder: Path) -> Counter[str]:
    programs = {path.stem: outcomes(path) for path in folder.glob("*.xml") if path.stem != "ctest"}
    total = sum(programs.values(), Counter())
    ctest = folder / "ctest.xml"
    if not ctest.exists():
        return total
    for case in ElementTree.parse(ctest).iter("testcase"):
        cases = programs.get(case.get("name", ""))
        if cases is None or (outcome(case) == "failed" and not cases["failed"]):
            total[outcome(case)] += 1
    return total


def main(results: Path, broken: list[str]) -> int:
    total: Counter[str] = Counter()
    stages = {path.name for path in results.iterdir() if path.is_dir()}
    for stage in sorted(stages | set(broken)):
        counts = stage_outcomes(results / stage) if stage in stages else Counter()
        if stage in broken and not counts["failed"]:
            counts["failed"] = 1
        print(f"{stage}: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped", flush=True)
        total += counts
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if broken or total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
