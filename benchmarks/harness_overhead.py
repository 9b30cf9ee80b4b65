"""What the profiler adds to the time of a model: p50 it reports over that of a bare `session.run` loop.

    python benchmarks/harness_overhead.py [--pairs 8] [--slices 10] [--slice-s 0.3]

Each pair is two fresh processes on the same core with the same session options and the same inputs: the profiler's
measuring process, and one that does nothing but call the model and look at the clock. They take turns in short slices,
in an order drawn anew each time, so that whatever the machine does meets both. Goal: within 1 % for models of 1 ms and
more, within 2 microseconds for the smallest.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from inferplan.profilers.process import Limits, WorkerProcess
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.spec.document import load_workload
from inferplan.spec.stage import Choice

WORKLOAD = Path(__file__).resolve().parent.parent / "sample_workloads" / "digits" / "workload.yaml"
STAGE = "read"
CASES = [("linear-7x7", 1), ("cnn-s", 1), ("resnet-s", 1), ("resnet-m", 2), ("resnet-m", 4), ("resnet-m", 8)]
FEWEST = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Medians of one pair, in seconds."""

    harness_s: float
    bare_s: float


def bare_loop(spec: ExecutorSpec, batch: int, core: int, pipe: Connection) -> None:
    """The other process: answers each slice length with the times of its calls."""
    os.sched_setaffinity(0, {core})
    import onnxruntime

    from inferplan.profilers.inputs import StageInputs
    from inferplan.profilers.runtimes.executor import Executor

    # The stage code prepares the inputs; the session is our own, with the options that docs/measurement.md states.
    with Executor.from_spec(spec) as executor:
        batches = StageInputs.of(executor, None).batches(batch, [0])
        feeds = [executor.adapter.preprocess(next(batches)) for _ in range(256)]
        names = [output.name for output in executor.info.outputs]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(spec.model, options, providers=["CPUExecutionProvider"])
    position = 0
    while (slice_s := pipe.recv()) is not None:
        times: list[float] = []
        end = perf_counter() + slice_s
        while len(times) < FEWEST or perf_counter() < end:
            feed = feeds[position % len(feeds)]
            position += 1
            start = perf_counter()
            session.run(names, feed)
            times.append(perf_counter() - start)
        pipe.send(times)


@contextmanager
def bare_process(spec: ExecutorSpec, batch: int, core: int) -> Iterator[Connection]:
    """A bare loop that waits for slices."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=bare_loop, args=(spec, batch, core, theirs), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        ours.send(None)
        process.join(10)


def measure(spec: ExecutorSpec, batch: int, core: int, slices: int, slice_s: float, order: random.Random) -> Pair:
    """One pair of processes."""
    harness: list[Floats] = []
    bare: list[Floats] = []
    with bare_process(spec, batch, core) as pipe, WorkerProcess(Limits(60.0, 4 * 2**30), 1, (core,)) as worker:
        worker.call("open", "opened", spec=spec.to_json(), provider="cpu", threads=1)
        worker.call("load_inputs", "inputs", requests=None)
        worker.call("begin", "begun", batch=batch, seed=[0])

        def ask_harness(length_s: float) -> Floats:
            frame = worker.call("measure", "measured", least_n=FEWEST, min_time_s=length_s, max_time_s=60.0)
            return np.asarray(frame.arrays["times"][1])

        def ask_bare(length_s: float) -> Floats:
            pipe.send(length_s)
            return np.asarray(pipe.recv())

        ask_harness(slice_s), ask_bare(slice_s)  # warm-up
        for _ in range(slices):
            if order.random() < 0.5:
                harness.append(ask_harness(slice_s))
                bare.append(ask_bare(slice_s))
            else:
                bare.append(ask_bare(slice_s))
                harness.append(ask_harness(slice_s))
    return Pair(float(np.median(np.concatenate(harness))), float(np.median(np.concatenate(bare))))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--slice-s", type=float, default=0.3)
    options = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    workload = load_workload(WORKLOAD).workload
    order = random.Random(0)
    print(
        f"p50 of inference, {options.pairs} pairs of processes, {options.slices} slices of {options.slice_s:g} s each"
    )
    print(
        f"{'model':12} {'batch':>5} {'bare p50':>12} {'profiler p50':>13} {'ratio':>7} {'over pairs':>15} {'more':>9}"
    )
    for variant, batch in CASES:
        spec = ExecutorSpec.of(workload.root, STAGE, workload.pipeline.stages[STAGE], Choice(variant))
        pairs = [measure(spec, batch, core, options.slices, options.slice_s, order) for _ in range(options.pairs)]
        ratios = [pair.harness_s / pair.bare_s for pair in pairs]
        more_us = 1e6 * float(np.median([pair.harness_s - pair.bare_s for pair in pairs]))
        print(
            f"{variant:12} {batch:5} {1e6 * np.median([p.bare_s for p in pairs]):9.1f} us "
            f"{1e6 * np.median([p.harness_s for p in pairs]):10.1f} us {np.median(ratios):7.3f} "
            f"{min(ratios):6.3f} .. {max(ratios):5.3f} {more_us:6.1f} us",
            flush=True,
        )


if __name__ == "__main__":
    main()
