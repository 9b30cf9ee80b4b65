"""Stalls: when the machine leaves a thread standing that had something to do.

It was doing something else meanwhile: other processes, the kernel, a hypervisor's other guests. They hold up all
requests and replies at once, or a replica's batch, and make the tails of short calls.

A router and replicas that poll see them themselves: between asking once and asking again there is nothing else to do.
Of the time that they work they do not know, nor of the time that they sleep. Where nothing runs, processes that do
nothing else watch instead (`watch_cores`). A router that shares cores with replicas sleeps whenever it has nothing to
do, so then its watcher works and sleeps by turns: one that never slept would be put behind all that does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from subprocess import PIPE
from time import perf_counter, sleep

from inferplan.runner.cores import available_cores, kept_to

STALL_S = 1e-4
"""Being late by less is waking up, which ways in and out have in them."""
MOST_KEPT = 10_000
WATCHED_S = 6.0
"""Some three stalls of over a millisecond a second make the 99th percentile of short calls: their number is off by a
fifth by chance then."""
STARTING_S = 0.1
BUSY, BY_TURNS = (5e-5,), (5e-5, 1.5e-4)
"""What a router does at some thousand requests a second, one that polls and one that sleeps: work, then sleep (s)."""


@dataclass(slots=True)
class Watched:
    """For how long somebody asked for what comes next, and the times (s) of it for which they were left standing.

    Of the lengths the latest `MOST_KEPT` are there; `count` and `stood_s` are of all.
    """

    watched_s: float = 0.0
    count: int = 0
    stood_s: float = 0.0
    lengths_s: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_KEPT))

    def add(self, watched_s: float, stalls_s: Sequence[float]) -> None:
        """Somebody asked for so long, and was left standing so often meanwhile."""
        self.watched_s += watched_s
        if stalls_s:
            self.count += len(stalls_s)
            self.stood_s += sum(stalls_s)
            self.lengths_s.extend(stalls_s)


def watch_cores(busy_cores: Sequence[int]) -> tuple[list[float], list[float]]:
    """By how much this process is late, where it is by more than `STALL_S`, and by how much others that keep cores
    busy are meanwhile."""
    watchers = [
        subprocess.Popen([sys.executable, "-S", "-c", _WATCHER, str(core), str(STALL_S)], stdout=PIPE, stdin=PIPE)
        for core in busy_cores
    ]
    free = [core for core in available_cores() if core not in busy_cores]
    try:
        sleep(STARTING_S)
        with kept_to(free):
            own = _late(BUSY if free else BY_TURNS)
        others = [json.loads(watcher.communicate()[0] or "[]") for watcher in watchers]
    finally:
        for watcher in watchers:
            watcher.kill()
            watcher.wait()
    return own, [stall for stalls in others for stall in stalls]


def _late(turns_s: Sequence[float]) -> list[float]:
    """By how much, each time that it is, while it is busy and asleep by turns of these lengths."""
    found: list[float] = []
    now = perf_counter()
    end = now + WATCHED_S
    while now < end:
        due = now
        for wait, turn_s in zip((_spin, _doze), turns_s, strict=False):
            due += turn_s
            wait(due)
            now = perf_counter()
            if now - due > STALL_S:
                found.append(now - due)
                break
    return found


def _spin(until: float) -> None:
    while perf_counter() < until:
        pass


def _doze(until: float) -> None:
    sleep(max(until - perf_counter(), 0.0))


_WATCHER = """
import json, os, select, sys
from time import perf_counter
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, [int(sys.argv[1])])
least, found = float(sys.argv[2]), []
asked = select.poll()
asked.register(0, select.POLLIN)
now = perf_counter()
while not asked.poll(0):
    before, now = now, perf_counter()
    if now - before > least:
        found.append(now - before)
json.dump(found, sys.stdout)
"""
"""Ends with its standard input."""
