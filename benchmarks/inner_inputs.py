"""How much longer a stage past the entry takes on its labelled inputs than on what arrives there in the pipeline.

    python benchmarks/inner_inputs.py sample_workloads/ocr/workload.yaml read [CHOICE...]

Batch 1, one thread, one process: blocks of calls on both kinds of inputs take turns, in an order drawn per pair, so
that drift cancels. What arrives is what the profiler takes, sent by the choices of `profile.upstream`, of other stages
by the first; `--upstream STAGE=CHOICE` names others. `ratio` is the geometric mean over pairs of labelled over
arriving, with Student's 95 % interval; `elements` the same of what the model was fed with.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from inferplan.profilers.inputs import PipelineSpec
from inferplan.profilers.process import Limits
from inferplan.profilers.runtimes.executor import Executor
from inferplan.profilers.upstream import Folder, run_upstream
from inferplan.spec.document import load_workload
from inferplan.spec.errors import InputError
from inferplan.spec.stage import Choice
from inferplan.spec.workload import Workload

T_975 = {4: 2.776, 9: 2.262, 14: 2.145, 19: 2.093}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", type=Path)
    parser.add_argument("stage")
    parser.add_argument("choices", nargs="*")
    parser.add_argument("--upstream", action="append", default=[], metavar="STAGE=CHOICE")
    parser.add_argument("--pairs", type=int, default=20, choices=[n + 1 for n in T_975])
    parser.add_argument("--calls", type=int, default=48, help="per block")
    asked = parser.parse_args()
    workload = load_workload(asked.workload).workload
    stage = workload.pipeline.stages[asked.stage]
    labelled: list[Any] = []
    arriving, names = arrived(workload, asked.stage, dict(text.split("=") for text in asked.upstream))
    print(f"{asked.stage}: {len(arriving)} inputs from {names}")
    print(f"{'choice':<14}{'labelled ms':>12}{'arriving ms':>12}{'ratio':>8}{'95 %':>16}{'elements':>10}")
    for name in asked.choices or stage.choices():
        if stage.variants[Choice.parse(name).variant].runtime == "skip":
            continue
        with Executor.open(workload.root, asked.stage, stage, Choice.parse(name)) as executor:
            labelled = labelled or [example.input for example in executor.examples()]
            times, elements = blocks(executor, (labelled, arriving), asked.pairs, asked.calls)
        logs = np.log(times[:, 0] / times[:, 1])
        half = T_975[asked.pairs - 1] * logs.std(ddof=1) / math.sqrt(len(logs))
        ends = f"{math.exp(logs.mean() - half):.3f} - {math.exp(logs.mean() + half):.3f}"
        means = times.mean(axis=0) * 1e3
        sizes = elements[:, 0].sum() / elements[:, 1].sum()
        print(f"{name:<14}{means[0]:>12.3f}{means[1]:>12.3f}{math.exp(logs.mean()):>8.3f}{ends:>16}{sizes:>10.3f}")


def arrived(workload: Workload, stage: str, wanted: dict[str, str]) -> tuple[list[Any], str]:
    """What the stages before send, by the choices wanted of them, and who sent it."""
    workload.profile.upstream.update(wanted)
    pipeline, folder = workload.pipeline, Folder()
    requests = PipelineSpec(str(workload.root), pipeline.code, pipeline.params)
    found = run_upstream(workload, requests, [stage], "cpu", Limits(120.0, 4 * 2**30), folder.path)[stage]
    if found.reason:
        raise InputError(f"{stage}: {found.reason}")
    codes = [other.code for other in pipeline.stages.values() if other.code is not None]
    spec = PipelineSpec(str(workload.root), pipeline.code, {}, {**found.to_json(), "codes": codes})
    return [example.input for example in spec.arriving()], found.names


def blocks(executor: Executor, kinds: tuple[list[Any], list[Any]], pairs: int, calls: int) -> tuple[Any, Any]:
    """Mean service time (s) and elements of every block: arrays [pairs, 2]."""
    rng = np.random.default_rng(0)
    orders = [rng.permutation(np.resize(np.arange(len(kind)), pairs * calls)) for kind in kinds]
    for item in kinds[0][:20]:
        executor.execute([item])
    times, elements = np.zeros((pairs, 2)), np.zeros((pairs, 2))
    for pair in range(pairs):
        for kind in rng.permutation(2):
            picks = orders[kind][pair * calls : (pair + 1) * calls]
            done = [executor.execute([kinds[kind][pick]]) for pick in picks]
            times[pair, kind] = np.mean([one.service_s for one in done])
            elements[pair, kind] = np.mean([one.elements for one in done])
    return times, elements


if __name__ == "__main__":
    main()
