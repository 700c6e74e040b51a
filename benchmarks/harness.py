"""What the benchmarks share: the target, the tracking of it, and figures of the machine itself."""
import ctypes
import datetime
import json
import mmap
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CKPT = ROOT / "bazel-bin/cli/incr-ckpt"
STEADY_LOAD = ROOT / "bazel-bin/testdata/targets/steady_load"
RESULTS = ROOT / "benchmarks/results"
PAGES_PER_MIB = 256


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values):
    """The mean of the middle two where the number is even."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def numbers(text):
    return [float(word) if "." in word else int(word) for word in text.split(",")]


class Report:
    """What a steady_load saw since its last report."""

    def __init__(self, lines):
        _, seconds, written, operations, gaps, lost = next(lines).split()
        self.seconds, self.pages_written = float(seconds), int(written)
        self.operations = int(operations)
        self.histogram = [int(n) for n in next(lines).split()[1:]]
        self.gaps = [tuple(map(int, next(lines).split())) for _ in range(int(gaps))]  # (end, length) us
        if int(lost):
            raise RuntimeError(f"{lost} gaps did not fit: too noisy a machine, or too long a report")

    def longest_gap_us(self, since_us=0, until_us=float("inf")):
        """Of the gaps that end or begin between the two; 250 where none was notable."""
        return max((gap for end, gap in self.gaps if end >= since_us and end - gap <= until_us),
                   default=250)


class Target:
    """A steady_load that is ready. `mode`: "sleep" or "work"."""

    def __init__(self, mib, rate, mode="sleep", threads=1, cpus=None):
        self.pages = mib * PAGES_PER_MIB
        self._rate_file = tempfile.NamedTemporaryFile("w", prefix="rate")
        self._write_rate(rate)
        self.process = subprocess.Popen(
            [STEADY_LOAD, str(mib), self._rate_file.name, mode, str(threads)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None)
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{STEADY_LOAD} did not start (exit {self.process.wait()})")
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self._rate_file.close()

    def _write_rate(self, rate):
        self._rate_file.seek(0)
        self._rate_file.truncate()
        self._rate_file.write(f"{rate}\n")
        self._rate_file.flush()

    def set_rate(self, pages_per_second):
        self._write_rate(pages_per_second)
        self.process.send_signal(signal.SIGUSR2)

    def rest(self):
        self.set_rate(-1)

    def report(self):
        self.process.send_signal(signal.SIGUSR1)
        return Report(iter(self.process.stdout.readline, ""))

    def watch(self, seconds):
        self.report()
        time.sleep(seconds)
        return self.report()


class Tracking:
    """The target's epochs, from start() to the end of the `with`; the store goes with it."""

    def __init__(self, target, folder, interval_s, options=(), cpus=None):
        self.target, self.interval_s, self.options, self.cpus = target, interval_s, options, cpus
        self.store = tempfile.mkdtemp(prefix="store", dir=folder)
        self.daemon_pid = None

    def ckpt(self, *arguments):
        done = subprocess.run(
            [CKPT, "--store", self.store, "--json", *arguments], capture_output=True, text=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, self.cpus)) if self.cpus else None)
        if done.returncode != 0:
            raise RuntimeError(f"incr-ckpt {' '.join(arguments)}: {done.stderr.strip()}")
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def start(self):
        """Seconds until the first epoch was durable."""
        started = time.monotonic()
        self.ckpt("start", "--interval", str(self.interval_s), "--job", "bench", *self.options,
                  str(self.target.pid))
        taken_s = time.monotonic() - started
        self.daemon_pid = self.ckpt("status")["daemon_pid"]
        return taken_s

    def request_epoch(self):
        """Returns when it is durable. Straight to the daemon: `incr-ckpt checkpoint` would cost a process."""
        body = b'{"target":"bench"}'
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{self.store}/daemon.sock")
            connection.sendall(b"POST /v1/checkpoint HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                               b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            reply = b"".join(iter(lambda: connection.recv(65536), b""))
        if not reply.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"checkpoint: {reply.decode(errors='replace')}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            if self.daemon_pid:
                self.ckpt("stop", "--all")
        finally:
            shutil.rmtree(self.store, ignore_errors=True)
            os.sync()  # Or the next run pays for it.

    def epochs(self):
        """Rows of `list`, with `us`: the freeze's beginning in microseconds of CLOCK_REALTIME. Fails
        where an epoch did: the figures would not say so."""
        job = self.ckpt("status")["jobs"][0]
        if job["epochs_failed"]:
            raise RuntimeError(f"{job['epochs_failed']} epochs failed; the last: {job['last_error']}")
        rows = self.ckpt("list", "--job", "bench")["epochs"]
        for row in rows:
            moment = datetime.datetime.fromisoformat(row["time"].replace("Z", "+00:00"))
            since = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
            row["us"] = since // datetime.timedelta(microseconds=1)
        return rows

    def cpu_seconds(self):
        """Of the daemon with its threads, and of its agents."""
        ticks = os.sysconf("SC_CLK_TCK")
        total = 0
        for pid in [self.daemon_pid, *children_of(self.daemon_pid)]:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / ticks
        return total


def children_of(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def bare_costs(pid):
    """Medians of what this machine takes, with process `pid` (one thread of it): stopping and letting go
    of it, a system call, a first touch of a page; us."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    wall = 0x40000000  # __WALL
    stops = []
    for _ in range(50):
        time.sleep(0.01)
        started = time.monotonic_ns()
        if libc.ptrace(0x4206, pid, None, None) != 0:  # PTRACE_SEIZE
            raise OSError(ctypes.get_errno(), "PTRACE_SEIZE")
        libc.ptrace(0x4207, pid, None, None)  # PTRACE_INTERRUPT
        os.waitpid(pid, wall)
        libc.ptrace(17, pid, None, None)  # PTRACE_DETACH
        stops.append((time.monotonic_ns() - started) / 1e3)
    started = time.monotonic_ns()
    for _ in range(20000):
        os.getppid()
    call_us = (time.monotonic_ns() - started) / 20000 / 1e3
    size = 64 << 20
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    started = time.monotonic_ns()
    for at in range(0, size, 4096):
        memory[at] = 1
    touch_us = (time.monotonic_ns() - started) / (size / 4096) / 1e3
    return percentile(stops, 0.5), call_us, touch_us


def machine():
    """A sentence of facts."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") / 2**30
    virtual = " (virtual)" if "hypervisor" in Path("/proc/cpuinfo").read_text() else ""
    return (f"Linux {platform.release()}, {model}{virtual}, {os.cpu_count()} cores, {memory:.0f} GiB, "
            f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC")


def version():
    """The commit measured, with a + where the tree differs from it."""
    def git(*arguments):
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()
    dirty = git("status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if dirty else "")


def check_ready():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Leaves every `with`: no target, no store stays.
    if os.geteuid() != 0:
        sys.exit("needs root")
    for program in (CKPT, STEADY_LOAD):
        if not program.exists():
            sys.exit(f"{program} is missing: bazel build //cli:incr-ckpt //testdata/targets:steady_load")


def progress(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def stolen_seconds():
    """CPU time that the hypervisor gave to others, since boot."""
    return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")
