#!/usr/bin/python3
"""A long computation that verifies itself: threads, open files, a large dict.

Usage: computation.py PROGRESS_FILE [STEPS]

Three worker threads take numbers from a queue and add to a dict of 100,000 entries under a lock; a
log file is appended to through a buffered writer; a generator and a deep recursion keep state on the
stack. Every step the invariant sum is checked; the step goes to PROGRESS_FILE as 20 digits at
offset 0. A failed check writes "BAD ..." there and exits with 3. After STEPS steps (default: a
million) the log is compared with what it must hold, and the exit status is 0.
"""
import hashlib
import os
import queue
import sys
import threading
import time

ENTRIES = 100_000


def bad(fd, what):
    os.pwrite(fd, f"BAD {what}".encode(), 0)
    os._exit(3)


def squares():
    n = 0
    while True:
        yield n * n
        n += 1


class Computation:
    def __init__(self, progress):
        self.fd = os.open(progress, os.O_RDWR | os.O_CREAT, 0o600)
        self.log = open(progress + ".log", "w+", buffering=512)
        self.table = {f"key-{i}": i for i in range(ENTRIES)}
        self.added = 0
        self.lock = threading.Lock()
        self.work = queue.Queue()
        self.local = threading.local()
        self.digest = hashlib.sha256()
        for i in range(3):
            threading.Thread(target=self.worker, args=(i,), daemon=True).start()

    def worker(self, number):
        self.local.number = number
        while True:
            item = self.work.get()
            if self.local.number != number:
                bad(self.fd, "thread-local")
            with self.lock:
                self.table[f"key-{item % ENTRIES}"] += item
                self.added += item
            self.work.task_done()

    def step(self, n, square):
        for k in range(20):
            self.work.put(n * 20 + k)
        self.work.join()
        if square != n * n:
            bad(self.fd, "generator")
        if n % 10 == 0 and sum(self.table.values()) != ENTRIES * (ENTRIES - 1) // 2 + self.added:
            bad(self.fd, "sum of the table")
        self.digest.update(str(self.added).encode())
        self.log.write(f"step {n} added {self.added}\n")
        os.pwrite(self.fd, b"%020d" % n, 0)
        time.sleep(0.002)

    def check_log(self, steps):
        self.log.flush()
        self.log.seek(0)
        added = 0
        digest = hashlib.sha256()
        for n in range(steps):
            added += sum(n * 20 + k for k in range(20))
            digest.update(str(added).encode())
            if self.log.readline() != f"step {n} added {added}\n":
                bad(self.fd, f"log line {n}")
        if digest.digest() != self.digest.digest():
            bad(self.fd, "digest")


def deep(depth, call):
    """Calls from the bottom of a deep stack, and checks every frame on the way back."""
    if depth == 0:
        return call()
    marker = [depth] * 3
    result = deep(depth - 1, call)
    assert marker == [depth] * 3
    return result


def main():
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    computation = Computation(sys.argv[1])
    print("ready", flush=True)

    def run():
        for n, square in zip(range(steps), squares()):
            computation.step(n, square)
        computation.check_log(steps)

    deep(200, run)
    print("finished", flush=True)


main()
