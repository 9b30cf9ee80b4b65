"""The measuring process: `python -m inferplan.profilers.worker RESULTS_FD LIFELINE_FD DATA_LIMIT`.

Commands come as lines of JSON on standard input; answers go as frames over the results pipe. What the user's
code prints goes to standard error, whose end the parent keeps for the reason of a failure. The process ends
when its commands end, and is ended when the parent is gone (the lifeline pipe closes), whatever it is doing.

What only evaluations need (pydantic, metrics) is imported by them: every point starts several processes, and
their memory is measured.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import resource
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import numpy as np

from inferplan.profilers.frames import Frame, encode, says_memory
from inferplan.profilers.inputs import PipelineSpec, StageInputs, examples_sha256
from inferplan.profilers.runtimes.executor import Executor, ExecutorSpec
from inferplan.profilers.runtimes.registry import runtime
from inferplan.profilers.sensors import Window, peak_resident_bytes, read_sensors
from inferplan.spec import errors
from inferplan.spec.errors import InferplanError
from inferplan.spec.usercode import load_class

Command = Mapping[str, Any]
_NOT_THE_USERS = tuple(str(Path(file).resolve().parent) + os.sep for file in (__file__, errors.__file__, os.__file__))
"""Folders of this package's rooms and of the standard library."""
ALIKE = 8
"""Batches of one size after which more of them are taken to have it, too."""


class Worker:
    """Answers commands. One executor is open at a time.

    `interrupted` says whether the next command is waiting.
    """

    def __init__(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        self._interrupted = interrupted
        self._burnt = 0
        self._executor: Executor | None = None
        self._inputs: StageInputs | None = None
        self._batches: Iterator[list[Any]] = iter(())

    def answer(self, command: Command) -> Iterator[Frame]:
        """The frames a command is answered with. Errors pass through."""
        actions = {
            "providers": self._providers,
            "open": self._open,
            "load_inputs": self._load_inputs,
            "shape": self._shape,
            "begin": self._begin,
            "measure": self._measure,
            "sizes": self._sizes,
            "burn": self._burn,
            "rest": self._rest,
            "score": self._score,
            "rescore": self._rescore,
            "requests": self._requests,
            "combinations": self._combinations,
            "upstream": self._upstream,
            "variants": self._variants,
        }
        yield from actions[command["do"]](command)

    def _providers(self, command: Command) -> Iterator[Frame]:
        """Which providers a runtime's library claims to have."""
        yield Frame("providers", {"providers": list(runtime(command["runtime"]).providers())})

    def _open(self, command: Command) -> Iterator[Frame]:
        """Load a variant. Frame `runtime` comes once its code and the runtime are there, `opened` with what
        really runs the model once that is loaded, too."""
        self._close()
        spec = ExecutorSpec(**command["spec"])
        if spec.code:
            load_class(spec.code, Path(spec.root))
        yield Frame("runtime", {"version": runtime(spec.runtime).version()})
        start = perf_counter()
        executor = self._executor = Executor.from_spec(spec, command["provider"], command["threads"])
        yield Frame(
            "opened",
            {
                "load_s": perf_counter() - start,
                "version": executor.version,
                "provider": executor.provider,
                "fixed_batch": executor.fixed_batch,
            },
        )

    def _load_inputs(self, command: Command) -> Iterator[Frame]:
        """Load what the open variant is evaluated with, or, `timed`, what its latency is measured with; `hashed` asks
        for its hash as well."""
        load = StageInputs.timed if command.get("timed") else StageInputs.of
        requests = command.get("requests")
        inputs = self._inputs = load(self._opened(), PipelineSpec(**requests) if requests else None)
        data = {"count": len(inputs.examples), "labelled": inputs.labelled, "arrived": inputs.arrived}
        yield Frame("inputs", {**data, "sha256": inputs.sha256() if command.get("hashed") else ""})

    def _shape(self, command: Command) -> Iterator[Frame]:
        """The shapes that the model is fed with at one batch size."""
        yield Frame("shape", {"shape": self._loaded().shape(self._opened(), command["batch"])})

    def _begin(self, command: Command) -> Iterator[Frame]:
        """The first batch of a point, timed on its own."""
        self._batches = self._loaded().batches(command["batch"], command["seed"])
        gc.collect()
        gc.freeze()  # as replicas do: what is loaded now stays, collections need not look at it
        first = self._opened().execute(next(self._batches))
        yield Frame("begun", {"first_s": first.service_s})

    def _measure(self, command: Command) -> Iterator[Frame]:
        """Batches until `least_n` and `min_time_s` are reached or `max_time_s` is; at least one."""
        execute, batches = self._opened().execute, self._batches
        least_n, min_time_s, max_time_s = command["least_n"], command["min_time_s"], command["max_time_s"]
        times: list[tuple[float, float, float]] = []
        elements: list[int] = []
        before = read_sensors()
        start = perf_counter()
        while True:
            inputs = next(batches)
            done = execute(inputs)
            times.append((done.pre_s, done.infer_s, done.post_s))
            elements.append(done.elements)
            elapsed = perf_counter() - start
            if elapsed >= max_time_s or (len(times) >= least_n and elapsed >= min_time_s):
                break
        window = Window.between(before, read_sensors())
        data = {name: getattr(window, name) for name in Window.__dataclass_fields__}
        arrays = {"times": np.array(times).T.copy(), "elements": np.array(elements, dtype=np.int64)}
        yield Frame("measured", {"window": data, "peak_rss_bytes": peak_resident_bytes()}, arrays)

    def _sizes(self, command: Command) -> Iterator[Frame]:
        """Elements that the model would be fed with, in batches of their own that are prepared and not run. Where all
        of the first ones are alike there is nothing to learn from more."""
        batches = self._loaded().batches(command["batch"], command["seed"])
        elements: list[int] = []
        end = perf_counter() + command["most_s"]
        while len(elements) < command["most"] and perf_counter() < end:
            elements.append(self._opened().elements(next(batches)))
            if len(elements) == ALIKE and len(set(elements)) == 1:
                break
        yield Frame("sizes", {}, {"elements": np.array(elements, dtype=np.int64)})

    def _burn(self, command: Command) -> Iterator[Frame]:
        """Batches one after another until the next command comes; `burning` is said once the first is done."""
        execute, batches = self._opened().execute, self._batches
        execute(next(batches))
        self._burnt = 1
        yield Frame("burning")
        while not self._interrupted():
            execute(next(batches))
            self._burnt += 1

    def _rest(self, command: Command) -> Iterator[Frame]:
        """Nothing to do; how many batches `burn` did before."""
        yield Frame("resting", {"n": self._burnt})

    def _score(self, command: Command) -> Iterator[Frame]:
        """The open variant on all its inputs."""
        from inferplan.profilers.scoring import score_stage

        yield from score_stage(self._opened(), self._loaded(), command["batch"], command["metrics"])

    def _rescore(self, command: Command) -> Iterator[Frame]:
        """Metrics of predictions that were kept."""
        from inferplan.profilers.scoring import rescore

        yield from rescore(command)

    def _combinations(self, command: Command) -> Iterator[Frame]:
        """Whole pipelines on their labelled requests."""
        from inferplan.profilers.combinations import evaluate_combinations

        yield from evaluate_combinations(command)

    def _upstream(self, command: Command) -> Iterator[Frame]:
        """What arrives at stages past the entry."""
        from inferplan.profilers.upstream import keep_arrivals

        yield from keep_arrivals(command)

    def _variants(self, command: Command) -> Iterator[Frame]:
        """Looks at a variant, makes another from it, compares the two."""
        from inferplan.profilers.variants.workshop import answer

        self._close()
        yield from answer(command)

    def _requests(self, command: Command) -> Iterator[Frame]:
        """How many labelled requests the pipeline has, and their hash."""
        examples = PipelineSpec(**command["pipeline"]).open().examples()
        yield Frame("inputs", {"count": len(examples), "labelled": True, "sha256": examples_sha256(examples)})

    def _opened(self) -> Executor:
        if self._executor is None:
            raise RuntimeError("no variant is open")
        return self._executor

    def _loaded(self) -> StageInputs:
        if self._inputs is None:
            raise RuntimeError("no inputs are loaded")
        return self._inputs

    def _close(self) -> None:
        if self._executor is not None:
            self._executor.close()
        self._executor, self._inputs, self._batches = None, None, iter(())


def error_frame(error: BaseException) -> Frame:
    """A failure in words: what was raised, and where in the user's code."""
    if isinstance(error, InferplanError):
        message = str(error).replace("\n", "; ")
    else:
        text = str(error).strip()
        message = type(error).__name__ + (f": {text}" if text else "")
    place = _place(error)
    memory = isinstance(error, MemoryError) or says_memory(message)
    return Frame("error", {"message": message + (f" ({place})" if place else ""), "memory": memory})


def _place(error: BaseException) -> str:
    """File and line of the innermost frame in the user's own code; empty where there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = os.path.realpath(frame.filename)
        if os.path.isfile(path) and not path.startswith(_NOT_THE_USERS) and "site-packages" not in path:
            return f"{Path(path).name}:{frame.lineno}"
    return ""


def serve(commands: BinaryIO, results: BinaryIO) -> None:
    """Answer commands until they end."""
    worker = Worker(lambda: bool(select.select([commands], [], [], 0.0)[0]))
    for line in commands:
        try:
            for frame in worker.answer(json.loads(line)):
                results.write(encode(frame))
                results.flush()
        except Exception as error:
            results.write(encode(error_frame(error)))
            results.flush()


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Entry point of the process."""
    results_fd, lifeline_fd, data_limit = (int(text) for text in sys.argv[1:4])
    for descriptor in (results_fd, lifeline_fd):
        os.set_inheritable(descriptor, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if data_limit:
        resource.setrlimit(resource.RLIMIT_DATA, (data_limit, data_limit))
    # User code must neither write into the results nor read the commands.
    commands_fd = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, args=(lifeline_fd,), daemon=True).start()
    with os.fdopen(commands_fd, "rb") as commands, os.fdopen(results_fd, "wb") as results:
        serve(commands, results)
        sys.stderr.flush()
        os._exit(0)  # runtimes hold threads; there is nothing left to do for any of them


if __name__ == "__main__":
    main()
