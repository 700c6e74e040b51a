#!/usr/bin/env python3
"""What being tracked costs a process: its own throughput, tracked against untracked, interleaved.

    bazel build //cli:incr-ckpt //testdata/targets:steady_load
    benchmarks/cost.py                      # both cases: about 8 minutes
    benchmarks/cost.py --case second --rounds 5
    benchmarks/cost.py --case hundred --rounds 5 --minute-s 10

Two processes with the same work (memory reads and arithmetic, counted by themselves) and the same writing take turns on
one CPU, slices of 0.125 s: A B, B A, A B, B A ...; a round is a second of each. First both are untracked: that is the
machine's ratio of the two, and its noise. Then A is tracked; its epochs fall in its slices only, so that in B's nothing
of ours runs. What A then loses against that ratio is the cost. (One process, tracked and then not, would not do: the
pages that tracking has left protected would be charged to the untracked slice.)

  second    1 GiB,   1 % of the pages a second, an epoch a second         bar: loses <= 1 %
  hundred   1 GiB, 0.1 % of the pages a second, 100 epochs a second       bar: loses <= 10 %; then, alone and
            for a minute, --interval 0.01:                                bar: every epoch durable

The processes have the last CPU and this script the others; daemon and agent may use all, as a user's would (--apart: the
others only, so that the CPU of the frozen process idles; --no-pin: the scheduler decides everything). The
interval is where 95 % of the results lie that as many rounds, drawn again from these, would give. Writes cost.md and cost.json to
benchmarks/results/. Needs root and a quiet machine.
"""
import argparse
import collections
import json
import os
import random
import tempfile
import time

from harness import (RESULTS, Target, Tracking, bare_costs, check_ready, machine, median, progress,
                     stolen_seconds, version)

Case = collections.namedtuple("Case", "name dirty interval_s bar_percent minute")
CASES = [Case("second", 1, 1, 1, False), Case("hundred", 0.1, 0.01, 10, True)]
ROUND_S, SLICES = 1, 8  # a round: a second of each, in slices short enough for the machine's drift to hit both
SETTLE_S = 0.012  # between a process's waking up and its slice


class Epochs:
    """Asks for epochs while A works, and counts them. An epoch is waited for: it ends in the slice it began in."""

    def __init__(self, tracking, interval_s):
        self.tracking, self.interval_s, self.asked = tracking, interval_s, 0
        self.left_s = interval_s / 2  # of A's time, until the next one is due

    def until(self, end_s):
        now = time.monotonic()
        while now < end_s and now + self.left_s < end_s:
            time.sleep(max(0, self.left_s))
            self.tracking.request_epoch()
            self.asked += 1
            self.left_s += self.interval_s - (time.monotonic() - now)
            now = time.monotonic()
        # Epochs that take longer than the interval fall behind; the figures say by how much.
        self.left_s = max(self.left_s - max(0, end_s - now), -0.1)


def run_slice(target, rate, seconds, epochs=None):
    """What it did while only this one worked."""
    target.set_rate(rate)
    time.sleep(SETTLE_S)
    target.report()
    end = time.monotonic() + seconds
    if epochs:
        epochs.until(end)
    time.sleep(max(0, end - time.monotonic()))
    report = target.report()
    target.rest()
    time.sleep(SETTLE_S)
    return report


def take_turns(a, b, rate, arguments, epochs=None):
    """Round by round A's throughput over B's; how long A worked in all, and how much it wrote."""
    ratios, worked_s, written = [], 0, 0
    for _ in range(arguments.rounds):
        reports = {a: [], b: []}
        for i in range(SLICES):
            for target in (a, b) if i % 2 == 0 else (b, a):
                reports[target].append(run_slice(target, rate, ROUND_S / SLICES, epochs if target is a else None))
        per_s = {target: sum(r.operations for r in of) / sum(r.seconds for r in of) for target, of in reports.items()}
        ratios.append(per_s[a] / per_s[b])
        worked_s += sum(report.seconds for report in reports[a])
        written += sum(report.pages_written for report in reports[a])
    return ratios, worked_s, written


def loss_percent(tracked, plain):
    return 100 * (1 - median(tracked) / median(plain))


def interval_95(tracked, plain):
    dice = random.Random(1)
    losses = sorted(loss_percent(dice.choices(tracked, k=len(tracked)), dice.choices(plain, k=len(plain)))
                    for _ in range(2000))
    return losses[50], losses[1949]


def check_complete(rows, written, target, what):
    """No page is written twice before all have been, so the epochs hold as many as the target wrote."""
    found = sum(row["pages_written"] for row in rows)
    if found < min(written, target.pages) * 0.9 - 100:
        raise RuntimeError(f"{what}: {found} pages in the epochs, but the target wrote {written}")


def describe(rows, cpu_s, seconds):
    return {"epochs": len(rows), "seconds": seconds, "cpu_s_per_s": cpu_s / seconds,
            "frozen_percent": 100 * sum(row["frozen_us"] for row in rows) / 1e6 / seconds,
            "frozen_p50_us": median([row["frozen_us"] for row in rows]),
            "total_p50_us": median([row["total_us"] for row in rows]),
            "total_max_us": max(row["total_us"] for row in rows)}


def tracker_options(arguments):
    return ("--tracker", arguments.tracker) if arguments.tracker else ()


def run_tracked(case, a, b, rate, arguments, cpus):
    with Tracking(a, arguments.dir, 0, tracker_options(arguments), cpus=cpus) as tracking:
        tracking.start()
        time.sleep(1)
        tracking.request_epoch()
        skip, cpu_s = len(tracking.epochs()), tracking.cpu_seconds()
        epochs = Epochs(tracking, case.interval_s)
        ratios, worked_s, written = take_turns(a, b, rate, arguments, epochs)
        cpu_s = tracking.cpu_seconds() - cpu_s
        rows = tracking.epochs()[skip:]
    if len(rows) != epochs.asked:
        raise RuntimeError(f"{epochs.asked} epochs were asked for, {len(rows)} are durable")
    # What was written after the last epoch is in none.
    check_complete(rows, written * (1 - 1 / arguments.rounds), a, case.name)
    return ratios, describe(rows, cpu_s, worked_s)


def run_minute(case, a, rate, arguments, cpus):
    """All the epochs of a minute, at the daemon's own interval: how many are durable?"""
    with Tracking(a, arguments.dir, case.interval_s, tracker_options(arguments), cpus=cpus) as tracking:
        a.set_rate(rate)
        tracking.start()
        time.sleep(2)
        a.report()
        cpu_s, begin = tracking.cpu_seconds(), time.time() * 1e6
        time.sleep(arguments.minute_s)
        end, cpu_s = time.time() * 1e6, tracking.cpu_seconds() - cpu_s
        report = a.report()
        rows = [row for row in tracking.epochs() if begin <= row["us"] < end]
        a.rest()
    check_complete(rows, report.pages_written, a, "the minute")
    by_second = collections.Counter(int((row["us"] - begin) // 1e6) for row in rows)
    result = describe(rows, cpu_s, (end - begin) / 1e6)
    result["due"] = int((end - begin) / 1e6 / case.interval_s)
    result["fewest_in_a_second"] = min(by_second[second] for second in range(int(result["seconds"])))
    return result


def run_case(case, arguments, cpus):
    rate = round(arguments.mib * 256 * case.dirty / 100)
    with Target(arguments.mib, -1, "work", cpus=cpus[0]) as a, Target(arguments.mib, -1, "work", cpus=cpus[0]) as b:
        run_slice(a, rate, 1), run_slice(b, rate, 1)  # Warm.
        stolen = stolen_seconds()
        progress(f"{case.name}: both untracked")
        plain, _, _ = take_turns(a, b, rate, arguments)
        progress(f"{case.name}: one tracked")
        tracked, figures = run_tracked(case, a, b, rate, arguments, cpus[1])
        stolen = stolen_seconds() - stolen
        result = {"case": case._asdict(), "mib": arguments.mib, "plain": plain, "tracked": tracked,
                  "stolen_s": stolen, "figures": figures}
        if case.minute:
            progress(f"{case.name}: the minute")
            result["minute"] = run_minute(case, a, rate, arguments, cpus[1])
    return result


def of_figures(figures):
    return (f"{figures['frozen_percent']:.2f} | {figures['frozen_p50_us'] / 1e3:.2f} | "
            f"{figures['total_p50_us'] / 1e3:.1f} / {figures['total_max_us'] / 1e3:.1f} | "
            f"{figures['cpu_s_per_s']:.3f} |")


def case_lines(result):
    case, figures, minute = result["case"], result["figures"], result.get("minute")
    plain, tracked = result["plain"], result["tracked"]
    loss, (low, high) = loss_percent(tracked, plain), interval_95(tracked, plain)
    control, (control_low, control_high) = loss_percent(plain[1::2], plain[::2]), interval_95(plain[1::2], plain[::2])
    each = sorted(100 * (1 - ratio / median(plain)) for ratio in tracked)
    bar = case["bar_percent"]
    reached = figures["epochs"] / figures["seconds"] * case["interval_s"]
    verdict = "met" if loss <= bar else "missed"
    if reached < 0.98:
        verdict = f"missed: only {reached:.0%} of the epochs were reached"
    elif low <= bar < high:
        verdict += ", but the noise is larger than what is left"
    lines = [
        f"## {result['mib']} MiB, {case['dirty']} % of the pages a second, an epoch every {case['interval_s']} s", "",
        f"**Throughput lost: {loss:.2f} %** (95 %: {low:.2f} .. {high:.2f}; round by round {each[0]:.2f} .. {each[-1]:.2f}); "
        f"bar {bar} %: {verdict}.", "",
        f"The same of untracked rounds (odd against even): {control:.2f} % ({control_low:.2f} .. {control_high:.2f}). "
        f"{len(plain)} rounds untracked, as many tracked; the hypervisor stole {result['stolen_s']:.2f} s.", "",
        "| | epochs | standing frozen, % | frozen p50, ms | until durable, p50 / max, ms | CPU of daemon and agent, s/s |",
        "|---|---|---|---|---|---|",
        f"| taking turns | {figures['epochs']} in {figures['seconds']:.0f} s | {of_figures(figures)}",
    ]
    if minute:
        # The window's two ends may cut one off.
        all_durable = minute["epochs"] >= minute["due"] - 1
        lines += [f"| alone, `--interval {case['interval_s']}` | {minute['epochs']} of {minute['due']} | {of_figures(minute)}",
                  "", f"Durable in {minute['seconds']:.0f} s: {minute['epochs']} of {minute['due']} that were due, at least "
                  f"{minute['fewest_in_a_second']} in every second; bar, all of them: {'met' if all_durable else 'missed'}."]
    return lines + [""]


def markdown(result):
    stop, call, touch = result["bare_us"]
    lines = ["# What tracking costs the process", "",
             f"{result['machine']}; incr-ckpt {result['version']}; {result['placement']}. This machine, bare: stop "
             f"and let go of one thread {stop:.0f} us, system call {call:.2f} us, first touch of a page {touch:.1f} us.",
             "", "Made by `benchmarks/cost.py`, which says how.", ""]
    for case in result["cases"]:
        lines += case_lines(case)
    return "\n".join(lines)


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=["second", "hundred", "all"], default="all")
    parser.add_argument("--rounds", type=int, default=40, help="without tracking, and as many with it")
    parser.add_argument("--minute-s", type=float, default=60, help="how long a minute is")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--no-pin", dest="pin", action="store_false")
    parser.add_argument("--apart", action="store_true", help="daemon and agent keep off the processes' CPU")
    parser.add_argument("--tracker", help="default: the one that incr-ckpt chooses")
    parser.add_argument("--dir", help="where stores go (default: a temporary folder)")
    parser.add_argument("--name", default="cost", help="of the results")
    return parser.parse_args()


def main():
    arguments = parse()
    check_ready()
    count = os.cpu_count()
    pin = arguments.pin and count > 1
    others = set(range(count - 1))
    cpus = ({count - 1}, others if arguments.apart else set(range(count))) if pin else (None, None)
    if pin:
        os.sched_setaffinity(0, others)
    with Target(64, 0) as idle:
        bare = bare_costs(idle.pid)
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        arguments.dir = folder
        measured = [run_case(case, arguments, cpus) for case in CASES if arguments.case in (case.name, "all")]
    result = {"machine": machine(), "version": version(), "bare_us": bare, "cases": measured,
              "placement": (("the target on one CPU, daemon and agent on " + ("the others" if arguments.apart else "any"))
                            if pin else "not pinned") +
              (f"; tracker {arguments.tracker}" if arguments.tracker else "")}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / arguments.name
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
