"""The table and the plot of pause.py's figures, and its bars."""
import shutil
import subprocess
import sys

# (size, dirty, what, milliseconds at the most, how to get it from a cell in us)
BARS = [
    (1024, 1, "frozen p50", 1, lambda cell: cell["precopy"]["frozen_us"]["p50"]),
    (1024, 1, "frozen p99", 3, lambda cell: cell["precopy"]["frozen_us"]["p99"]),
    (1024, 1, "first epoch frozen", 4, lambda cell: cell["precopy"]["first_frozen_us"]),
    (8192, 1, "frozen p50", 6, lambda cell: cell["precopy"]["frozen_us"]["p50"]),
]


def has_p99_bar(cell):
    return any((cell["mib"], cell["dirty"]) == (mib, dirty) and "p99" in what
               for mib, dirty, what, _, _ in BARS)


def ms(us):
    return f"{us / 1000:.2f}"


def triple(values):
    return " / ".join(ms(values[name]) for name in ("p50", "p99", "max"))


def bar_lines(cells):
    lines = []
    for mib, dirty, what, limit_ms, get in BARS:
        for cell in cells:
            if (cell["mib"], cell["dirty"]) != (mib, dirty):
                continue
            value = get(cell) / 1000
            lines.append(f"| {mib} MiB, {dirty} %/s, {cell['threads']} thread(s): {what} | {limit_ms} ms | "
                         f"{value:.2f} ms | {'met' if value <= limit_ms else 'missed'} |")
    return lines


def row(cell):
    epochs, single = cell["precopy"], cell.get("single")
    percent = 100 * epochs["written_per_s"] / (cell["mib"] * 256)
    achieved = "" if percent > 0.9 * cell["dirty"] else f" (reached {percent:.1f})"
    alone = f"{triple(single['frozen_us'])} | {ms(single['first_frozen_us'])}" if single else "– | –"
    return (f"| {cell['mib']} | {cell['dirty']}{achieved} | {cell['threads']} | "
            f"{triple(epochs['frozen_us'])} | {ms(epochs['first_frozen_us'])} | "
            f"{triple(epochs['gap_us'])} | {triple(epochs['gap_at_freeze_us'])} | "
            f"{ms(epochs['first_gap_us'])} | {triple(cell['floor_us'])} | {alone} | "
            f"{epochs['pages']:.0f} | {epochs['rounds']:.0f} | {epochs['runs']} x {epochs['epochs']:.0f} |")


def markdown(result):
    stop, call, touch = result["bare_us"]
    lines = [
        "# The pause of a checkpoint", "",
        f"{result['machine']}; incr-ckpt {result['version']}; an epoch every {result['interval_s']} s. "
        f"This machine, bare: stop and let go of one thread {stop:.0f} us, system call {call:.2f} us, first "
        f"touch of a page {touch:.1f} us.", "",
        "Made by `benchmarks/pause.py`, which says what the columns mean. Milliseconds, `p50 / p99 / max`, medians of "
        "the runs; `gap`: what the target's own first thread saw, `nobody`: the same with nobody attached, by the second.",
        "",
        "| MiB | dirty %/s | threads | frozen | first epoch frozen | gap | gap at freeze | gap, first epoch | nobody | "
        "no pre-copy: frozen | its first epoch | pages an epoch | rounds | runs x epochs |",
        "|" + "---|" * 14,
    ]
    lines += [row(cell) for cell in result["cells"]]
    for mib, dump in result["gcore"].items():
        lines += ["", f"gcore of {mib} MiB: stopped for {dump['gap_us'] / 1000:.0f} ms, as the target saw it."]
    bars = bar_lines(result["cells"])
    if bars:
        lines += ["", "| bar | at most | measured | |", "|---|---|---|---|", *bars]
    return "\n".join(lines) + "\n"


def panel(cells, gcore, mib):
    """gnuplot's commands of one size's panel."""
    data, curves, colour = [], [], 0
    for threads in sorted({cell["threads"] for cell in cells}):
        colour += 1
        mine = sorted((cell for cell in cells if cell["threads"] == threads), key=lambda c: c["dirty"])
        name = f"$d{threads}"
        data.append(f"{name} << EOD")
        for cell in mine:
            frozen, single = cell["precopy"]["frozen_us"], cell.get("single")
            data.append(f"{cell['dirty']} {ms(frozen['p50'])} {ms(frozen['p99'])} "
                        f"{ms(cell['precopy']['gap_us']['p50'])} {ms(cell['floor_us']['p50'])} "
                        f"{ms(single['frozen_us']['p50']) if single else 'NaN'}")
        data.append("EOD")
        for column, title, style in ((2, "frozen p50", "dt 1 pt 7 lw 2"), (3, "frozen p99", "dt 2 pt 6"),
                                     (4, "longest gap, p50", "dt 3 pt 5"), (5, "nobody attached", "dt 4 pt 1"),
                                     (6, "no pre-copy", "dt 5 pt 8")):
            shade = "rgb 'gray50'" if column == 5 else f"rgb \"{('#1f6fb4', '#d1601f', '#2a8a3e')[colour % 3]}\""
            curves.append(f"{name} using 1:{column} with linespoints {style} lc {shade} "
                          f"title \"{title}, {threads} thr\"")
    if mib in gcore:
        curves.append(f"{ms(gcore[mib]['gap_us'])} with lines lw 2 lc rgb \"black\" title \"gcore\"")
    return [*data, f"set title \"{mib} MiB\"", "plot " + ", \\\n  ".join(curves)]


def plot(result, path):
    """An SVG; says so where gnuplot is missing."""
    if not shutil.which("gnuplot"):
        print(f"NO PLOT ({path.name}): gnuplot is missing: apt-get install gnuplot-nox", file=sys.stderr)
        return
    sizes = sorted({cell["mib"] for cell in result["cells"]})
    script = [
        f"set terminal svg size {520 * len(sizes)},560 font 'sans,12' background 'white'",
        f"set output '{path}'", f"set multiplot layout 1,{len(sizes)}",
        "set logscale xy", "set xrange [0.07:80]", "set xlabel 'pages written a second, %'",
        "set ylabel 'ms'", "set grid", "set key outside bottom center maxcols 2 font ',10'",
        "set xtics (0.1, 1, 10, 50)", "set yrange [0.1:*]",
    ]
    for mib in sizes:
        script += panel([c for c in result["cells"] if c["mib"] == mib], result["gcore"], mib)
    script.append("unset multiplot")
    done = subprocess.run(["gnuplot"], input="\n".join(script) + "\n", text=True, capture_output=True)
    if done.returncode != 0:
        print(f"NO PLOT ({path.name}): gnuplot: {done.stderr.strip()}", file=sys.stderr)
    else:
        print(f"plot: {path}", file=sys.stderr)
