#!/usr/bin/env python3
"""How long a checkpoint stops its target: by size, by how fast it writes, by its threads.

    bazel build //cli:incr-ckpt //testdata/targets:steady_load
    benchmarks/pause.py                     # all of it: over an hour
    benchmarks/pause.py --quick             # 64 MiB and 1 GiB at 1 %, one run: a minute
    benchmarks/pause.py --sizes 1024 --dirty 1 --threads 1 --runs 1 --epochs 40

Of every combination --runs runs: start, an epoch a second, stop. `frozen` is what the tracer measured, from its
first interrupt to its last detach. `gap` is what the target saw: the longest time per epoch (from one freeze's end
to the next one's) between two looks at the clock that its first thread takes 100 us apart, whatever the cause;
`at freeze` only those of the freeze. Beside them, in the same run: the gaps with nobody attached (by the second), one
session without pre-copy, and gcore.

p50, p99 and max are of the epochs of a run but its first two (a run of fewer than 100 has its worst as p99), then the median
of the runs. Writes NAME.md, NAME.svg and NAME.json to benchmarks/results/. Needs root; gdb; gnuplot for
the plot; a quiet machine; twice the largest size in memory, and room for a store (--dir).
"""
import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pause_report
from harness import (RESULTS, Target, Tracking, bare_costs, check_ready, machine, median, numbers,
                     percentile, progress, version)

FREEZE_SLACK_US = 3000  # between the two clocks' looks; an epoch begins no sooner after another


def gaps_by_epoch(report, rows):
    """Of each epoch after the first: the longest gap since the last freeze, the longest at its freeze."""
    result = []
    for last, row in zip(rows, rows[1:]):
        end = row["us"] + row["frozen_us"] + FREEZE_SLACK_US
        since = last["us"] + last["frozen_us"] + FREEZE_SLACK_US
        result.append((report.longest_gap_us(since, end),
                       report.longest_gap_us(row["us"] - FREEZE_SLACK_US, end)))
    return result


def gaps_by_second(report, until_us, seconds):
    return [report.longest_gap_us(until_us - (i + 1) * 1e6, until_us - i * 1e6) for i in range(seconds)]


def spread(values):
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "max": max(values)}


def check(target, report, rows, rounds):
    """The figures against each other: what the tracker found, what the target did, what each measured."""
    written = sum(row["pages_written"] for row in rows[1:])
    by_target = report.pages_written
    seconds = (rows[-1]["us"] - rows[0]["us"]) / 1e6
    # Between the first freeze and the last it wrote its share of the report's time, no page twice until all
    # have come; the tracker may add the pages that pre-copy took and the target wrote again.
    least = min(by_target * seconds / report.seconds, target.pages) * 0.8 - 100
    if written < least:
        raise RuntimeError(f"{written} pages in the epochs, but the target wrote {by_target}: pages are missing")
    if rounds == 0 and any(row["precopy_rounds"] for row in rows):
        raise RuntimeError("pre-copy was asked not to be")
    for row, (_, at_freeze) in zip(rows[1:], gaps_by_epoch(report, rows)):
        # The tracer's clock starts before the first thread stops, and stops after it runs again.
        if at_freeze < row["frozen_us"] * 0.5 - 1000:
            raise RuntimeError(f"epoch {row['epoch']}: frozen {row['frozen_us']} us, but the target "
                               f"saw no more than {at_freeze} us")


def session(target, arguments, epochs, rounds=None):
    """One start with `epochs` epochs that count. The first one's successor does not: it has what was written while
    that one took its seconds, and may come before `start` returns."""
    options = [] if rounds is None else ["--precopy-rounds", str(rounds)]
    with Tracking(target, arguments.dir, arguments.interval, options) as tracking:
        target.report()
        first_s = tracking.start()
        rows = tracking.epochs()
        while len(rows) < epochs + 2:
            time.sleep((epochs + 2 - len(rows)) * arguments.interval + 0.2)
            rows = tracking.epochs()
        time.sleep(0.1)
        report = target.report()
    first, rows = rows[0], rows[1:epochs + 2]
    first_gap = report.longest_gap_us(0, first["us"] + first["frozen_us"] + FREEZE_SLACK_US)
    check(target, report, rows, rounds)
    gaps = gaps_by_epoch(report, rows)
    return {
        "first_s": first_s, "first_frozen_us": first["frozen_us"], "first_gap_us": first_gap,
        "first_pages": first["pages_written"],
        "frozen_us": spread([row["frozen_us"] for row in rows[1:]]),
        "gap_us": spread([gap for gap, _ in gaps]),
        "gap_at_freeze_us": spread([gap for _, gap in gaps]),
        "total_us": spread([row["total_us"] for row in rows[1:]]),
        "rounds": median([row["precopy_rounds"] for row in rows[1:]]),
        "pages": median([row["pages_written"] for row in rows[1:]]),
        "written_per_s": report.pages_written / report.seconds, "epochs": len(rows) - 1,
    }


def dump(target, folder):
    """gcore's stop, as the target saw it."""
    target.report()
    started = time.monotonic()
    subprocess.run(["gcore", "-o", f"{folder}/core", str(target.pid)], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    taken_s = time.monotonic() - started
    gap_us = target.report().longest_gap_us()
    for core in Path(folder).glob("core*"):
        core.unlink()
    return {"gap_us": gap_us, "total_s": taken_s}


def combine(runs):
    """The median of the runs, figure by figure."""
    result = {}
    for key, value in runs[0].items():
        if isinstance(value, dict):
            result[key] = {name: median([run[key][name] for run in runs]) for name in value}
        else:
            result[key] = median([run[key] for run in runs])
    result["first_frozen_max_us"] = max(run["first_frozen_us"] for run in runs)
    result["worst_frozen_us"] = max(run["frozen_us"]["max"] for run in runs)
    result["runs"] = len(runs)
    return result


def epochs_of(cell, arguments):
    """The combination with a bar on its p99 gets enough of them for one."""
    if arguments.epochs:
        return arguments.epochs
    return 40 if pause_report.has_p99_bar(cell) and cell["threads"] == 1 else 5


def measure_cell(target, cell, arguments):
    target.set_rate(round(target.pages * cell["dirty"] / 100))
    progress(f"{cell['mib']} MiB, {cell['dirty']} %/s, {cell['threads']} threads")
    time.sleep(0.5)
    floor = target.watch(arguments.floor_s + 0.1)
    cell["floor_us"] = spread(gaps_by_second(floor, time.time() * 1e6, arguments.floor_s))
    cell["histogram_floor"] = floor.histogram
    epochs = epochs_of(cell, arguments)
    cell["runs"] = [session(target, arguments, epochs) for _ in range(arguments.runs)]
    cell["precopy"] = combine(cell["runs"])
    if arguments.single_epochs:
        cell["single"] = combine([session(target, arguments, arguments.single_epochs, rounds=0)])


def whole(arguments, cells, dumps, bare):
    return {"machine": machine(), "version": version(), "bare_us": bare, "interval_s": arguments.interval,
            "cells": cells, "gcore": dumps}


def measure(arguments, save):
    """Calls save(result so far) after each cell: the whole takes over an hour, 8 GiB at 50 % 13 minutes a cell."""
    cells, dumps, bare = [], {}, None
    for mib in arguments.sizes:
        for threads in arguments.threads:
            with Target(mib, 0, "sleep", threads) as target:
                bare = bare or bare_costs(target.pid)
                for dirty in arguments.dirty:
                    cell = {"mib": mib, "dirty": dirty, "threads": threads}
                    measure_cell(target, cell, arguments)
                    cells.append(cell)
                    save(whole(arguments, cells, dumps, bare))
                if arguments.gcore and mib <= 1024 and mib not in dumps:
                    progress(f"{mib} MiB: gcore")
                    dumps[mib] = dump(target, arguments.dir)
    save(whole(arguments, cells, dumps, bare))


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=numbers, default=[64, 1024, 8192], help="MiB, 64,1024,8192")
    parser.add_argument("--dirty", type=numbers, default=[0.1, 1, 10, 50],
                        help="percent of the pages a second, 0.1,1,10,50")
    parser.add_argument("--threads", type=numbers, default=[1, 32], help="1,32")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=0,
                        help="a run, after the first (default: 5; 40 where a bar is on p99)")
    parser.add_argument("--single-epochs", type=int, default=3,
                        help="of the session without pre-copy; 0: none (default 3)")
    parser.add_argument("--interval", type=float, default=1, help="seconds from epoch to epoch")
    parser.add_argument("--floor-s", type=int, default=3, help="seconds with nobody attached")
    parser.add_argument("--no-gcore", dest="gcore", action="store_false")
    parser.add_argument("--quick", action="store_true", help="a look: 64,1024 MiB, 1 %%, 1 thread, 1 run")
    parser.add_argument("--dir", help="where stores and cores go (default: a temporary folder)")
    parser.add_argument("--name", default="pause", help="of the results; --quick: pause-quick")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.dirty, arguments.threads = [64, 1024], [1], [1]
        arguments.runs, arguments.epochs = 1, arguments.epochs or 10
        arguments.name = "pause-quick" if arguments.name == "pause" else arguments.name
    return arguments


def main():
    arguments = parse()
    check_ready()
    if arguments.gcore and not shutil.which("gcore"):
        sys.exit("gcore is missing: apt-get install gdb, or --no-gcore")
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        arguments.dir = folder
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / arguments.name

        def save(result):
            path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
            path.with_suffix(".md").write_text(pause_report.markdown(result))
            pause_report.plot(result, path.with_suffix(".svg"))

        measure(arguments, save)
    print(path.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
