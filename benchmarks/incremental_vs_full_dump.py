#!/usr/bin/env python3
"""What an epoch costs its target, beside a full dump (gcore) of the same process in the same run.

    bazel build //cli:incr-ckpt //testdata/targets:rewriter
    benchmarks/incremental_vs_full_dump.py [--mib 1024] [--percent 1] [--epochs 60] [--dumps 3]

A process of --mib MiB rewrites --percent of its pages each second; one epoch a second is taken of
it. Frozen time is what the tracer measured from its first interrupt to its last detach; "stall" is
the longest time the target itself saw itself not running (a sleep of 100 us that took longer).
"Bare" figures are this machine's own, of the same process in the same run: one thread stopped and let go by
ptrace, one system call, a first touch of a page. They tell a slow machine from a slow checkpointer.
Needs root, gdb, and a quiet machine.
"""
import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from harness import CKPT, ROOT, bare_costs, percentile

REWRITER = ROOT / "bazel-bin/testdata/targets/rewriter"


class Target:
    def __init__(self, mib, pages_per_second):
        self.process = subprocess.Popen([REWRITER, str(mib), str(pages_per_second)],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        text=True)
        assert self.process.stdout.readline() == "ready\n"
        self.pid = self.process.pid

    def longest_stall_us(self):
        """Since the last call."""
        self.process.send_signal(signal.SIGUSR1)
        return int(self.process.stdout.readline().split()[1])


def run_epochs(target, store, epochs):
    def ckpt(*arguments):
        done = subprocess.run([CKPT, "--store", store, "--json", *arguments], check=True,
                              capture_output=True, text=True)
        return json.loads(done.stdout) if done.stdout.strip() else {}

    started = time.monotonic()
    ckpt("start", "--interval", "0", "--job", "bench", str(target.pid))
    first_s = time.monotonic() - started
    time.sleep(2)
    ckpt("checkpoint", "bench")  # Settles what the first epoch left.
    stalls = []
    target.longest_stall_us()
    for _ in range(epochs):
        time.sleep(1)
        ckpt("checkpoint", "bench")
        stalls.append(target.longest_stall_us())
    rows = ckpt("list", "--job", "bench")["epochs"]
    ckpt("stop", "--all")
    return first_s, rows[0], rows[2:], stalls


def run_dumps(target, folder, dumps):
    results = []
    for i in range(dumps):
        target.longest_stall_us()
        started = time.monotonic()
        subprocess.run(["gcore", "-o", f"{folder}/core{i}", str(target.pid)], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.sync()
        total_s = time.monotonic() - started
        core = next(Path(folder).glob(f"core{i}*"))
        results.append((target.longest_stall_us(), total_s * 1e6, core.stat().st_size))
        core.unlink()
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--percent", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--dumps", type=int, default=3)
    parser.add_argument("--dir", help="where store and cores go (default: a temporary folder)")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        target = Target(arguments.mib, round(arguments.mib * 256 * arguments.percent / 100))
        try:
            target.longest_stall_us()
            time.sleep(3)
            quiet_us = target.longest_stall_us()
            stop_us, call_us, touch_us = bare_costs(target.pid)
            first_s, first, rows, stalls = run_epochs(target, f"{folder}/store", arguments.epochs)
            dumps = run_dumps(target, folder, arguments.dumps)
        finally:
            target.process.kill()
            target.process.wait()

    frozen = [row["frozen_us"] for row in rows]
    total = [row["total_us"] for row in rows]
    stored = [row["bytes_stored"] for row in rows]
    written = [row["pages_written"] for row in rows]
    dump_stall = percentile([d[0] for d in dumps], 0.5)
    dump_total = percentile([d[1] for d in dumps], 0.5)
    dump_bytes = percentile([d[2] for d in dumps], 0.5)
    print(f"process: {arguments.mib} MiB, {arguments.percent} % of its pages rewritten a second; "
          f"{len(rows)} epochs, {len(dumps)} full dumps")
    print(f"first epoch: {first_s:.2f} s, frozen {first['frozen_us'] / 1e3:.2f} ms, "
          f"{first['bytes_stored'] / 2**20:.0f} MiB stored")
    print(f"{'':28}{'epoch p50':>14}{'epoch p99':>14}{'full dump p50':>16}{'dump / epoch':>14}")

    def line(name, values, dump, unit, scale):
        p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
        print(f"{name:28}{p50 / scale:>11.2f} {unit:2}{p99 / scale:>11.2f} {unit:2}"
              f"{dump / scale:>13.2f} {unit:2}{dump / p50 if p50 else 0:>13.0f}x")

    line("frozen (tracer)", frozen, dump_stall, "ms", 1e3)
    line("longest stall (target)", stalls, dump_stall, "ms", 1e3)
    line("total until durable", total, dump_total, "ms", 1e3)
    line("bytes written", stored, dump_bytes, "MB", 1e6)
    print(f"bare: stop and let go {stop_us:.0f} us, system call {call_us:.2f} us, "
          f"first touch of a page {touch_us:.1f} us")
    print(f"pages written p50 {percentile(written, 0.5)}; longest stall of the target with nobody "
          f"attached, over 3 s: {quiet_us / 1e3:.2f} ms")


if __name__ == "__main__":
    main()
