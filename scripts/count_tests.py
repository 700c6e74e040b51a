#!/usr/bin/env python3
"""Counts every test case under bazel-testlogs and prints "N passed, N failed, N skipped".

Usage: count_tests.py TESTLOGS LABEL...

A gtest target counts by its cases (from test.xml); a target without cases counts as one. A
target that died, timed out or was not built counts as one failure more, so that a crash in the
middle of a suite cannot pass for success. A line of stdin that names a target counts it as
failed, any other line is repeated right before the last one. Exit status 1 if anything failed or nothing ran.
"""
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def count_target(folder):
    """(passed, failed, skipped) of one target."""
    try:
        root = ElementTree.parse(folder / "test.xml").getroot()
    except (OSError, ElementTree.ParseError):
        return 0, 1, 0
    passed = failed = skipped = 0
    for case in root.iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.find("skipped") is not None or case.get("result") == "skipped":
            skipped += 1
            reason = case.find("skipped")
            text = (reason.get("message") or reason.text or "") if reason is not None else ""
            name = f"{case.get('classname')}.{case.get('name')}"
            print(f"skipped: {name}: {' '.join(text.split())[:160]}")
        elif case.get("status") != "notrun":
            passed += 1
    return passed, failed, skipped


def main():
    testlogs, labels = Path(sys.argv[1]), sys.argv[2:]
    lines = [line.strip() for line in sys.stdin]
    failed_labels = {line for line in lines if line.startswith("//")}
    totals = [0, 0, 0]
    for label in labels:
        folder = testlogs / re.sub(r":", "/", label.removeprefix("//"))
        counts = list(count_target(folder))
        if label in failed_labels and counts[1] == 0:
            counts[1] = 1
        totals = [a + b for a, b in zip(totals, counts)]
    for line in lines:
        if line and line not in failed_labels:
            print(line)
    print(f"{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
    return 1 if totals[1] or not totals[0] else 0


if __name__ == "__main__":
    sys.exit(main())
