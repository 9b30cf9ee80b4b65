"""The process of one replica: `python -m inferplan.runner.worker FD`.

It loads its variant, says that it is ready, then takes batches from its socket one at a time until the socket
ends. It never outlives the process that started it: the socket then ends, and Linux also sends SIGKILL, should
the process hang inside a model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from inferplan.profilers.runtimes.executor import Batch, Executor, ExecutorSpec
from inferplan.runner.batcher import WARMING_ROUNDS, warming_sizes
from inferplan.runner.cores import BUSY_POLL_S
from inferplan.runner.frames import (
    SIZE,
    Blob,
    ConnectionEnded,
    FrameReader,
    Reply,
    dump,
    load,
    read_batch,
    reply_frame,
    send_all,
)
from inferplan.runner.stalls import STALL_S
from inferplan.spec.errors import InferplanError

WARM_UP_S = 2.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one replica is to be. `parents` are the stages it joins (empty where it has one parent or none);
    `routes` says whether its predictions go on to further stages."""

    executor: ExecutorSpec
    provider: str
    threads: int
    cores: tuple[int, ...]
    parents: tuple[str, ...]
    routes: bool
    starter: int
    gpu: int | None = None
    """The only GPU that its process is shown, counted among those that the process which starts it is shown."""
    max_batch: int = 1
    """The largest batch that it will get."""
    polls: bool = False
    """Whether it waits for batches without letting its core halt, as it has its cores for itself."""

    def to_json(self) -> bytes:
        """The assignment as text; `from_json` is the inverse."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Assignment:
        """The inverse of `to_json`."""
        data = json.loads(text)
        data["executor"] = ExecutorSpec(**data["executor"])
        return cls(**{**data, "cores": tuple(data["cores"]), "parents": tuple(data["parents"])})


class Worker:
    """Runs batches of blobs through an executor."""

    def __init__(self, executor: Executor, assignment: Assignment) -> None:
        self._executor = executor
        self._parents = assignment.parents
        self._routes = assignment.routes

    def answer(self, batch: Sequence[Sequence[Blob]], watched_s: float = 0.0, stalls_s: Sequence[float] = ()) -> Reply:
        """Run a batch. An item that fails does not take the others with it: after an error the items are
        run one by one, and those that fail carry the reason. `watched_s`, `stalls_s`: of the wait before it."""
        start = perf_counter()
        try:
            inputs = [self._input(parts) for parts in batch]
            result = self._executor.execute(inputs)
            outputs: list[list[Blob] | str] = [
                self._outputs(item, prediction) for item, prediction in zip(inputs, result.predictions, strict=True)
            ]
        except Exception as error:
            if len(batch) > 1:
                return self._one_by_one(batch, start, watched_s, stalls_s)
            result, outputs = Batch([], 0.0, 0.0, 0.0), [_reason(error)]
        times = (result.pre_s, result.infer_s, result.post_s, perf_counter() - start)
        return Reply(*times, outputs, watched_s, stalls_s)

    def _one_by_one(
        self, batch: Sequence[Sequence[Blob]], start: float, watched_s: float, stalls_s: Sequence[float]
    ) -> Reply:
        replies = [self.answer([parts]) for parts in batch]
        outputs = [output for reply in replies for output in reply.outputs]
        parts = [(reply.pre_s, reply.infer_s, reply.post_s) for reply in replies]
        pre_s, infer_s, post_s = (sum(times) for times in zip(*parts, strict=True))
        return Reply(pre_s, infer_s, post_s, perf_counter() - start, outputs, watched_s, stalls_s)

    def _input(self, parts: Sequence[Blob]) -> Any:
        if not self._parents:
            return load(parts[0])
        return {parent: load(part) for parent, part in zip(self._parents, parts, strict=True)}

    def _outputs(self, item: Any, prediction: Any) -> list[Blob]:
        if not self._routes:
            return [dump(prediction)]
        return [dump(onward) for onward in self._executor.route(item, prediction)]


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, InferplanError) else f"{type(error).__name__}: {error}"


def end_with(starter: int) -> None:
    """Have the kernel kill this process when the one that started it ends (Linux)."""
    if sys.platform != "linux":
        return
    import ctypes

    set_parent_death_signal = 1
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, int(signal.SIGKILL))
    if os.getppid() != starter:  # it ended before the call
        os._exit(1)


def serve(sock: socket.socket) -> None:
    """Take the assignment from the socket, then answer batches until it ends."""
    reader = FrameReader()
    assignment = Assignment.from_json(bytes(reader.wait(sock)))
    end_with(assignment.starter)
    if hasattr(os, "sched_setaffinity") and assignment.cores:
        os.sched_setaffinity(0, assignment.cores)
    start = perf_counter()
    try:
        executor = Executor.from_spec(assignment.executor, assignment.provider, assignment.threads)
    except Exception as error:
        details = list(error.details) if isinstance(error, InferplanError) else []
        _send(sock, json.dumps({"error": _reason(error), "details": details}).encode())
        return
    warm_up(executor, assignment.max_batch)
    _send(sock, json.dumps({"load_s": perf_counter() - start}).encode())
    worker = Worker(executor, assignment)
    gc.collect()
    gc.freeze()  # what is loaded now stays: later collections need not look at it
    wait = _poller(sock) if assignment.polls else lambda: (0.0, ())
    while True:
        watched_s, stalls_s = wait()
        send_all(sock, reply_frame(worker.answer(read_batch(reader.wait(sock)), watched_s, stalls_s)))


def warm_up(executor: Executor, max_batch: int) -> None:
    """Run the model on made-up batches of every size, the largest first, for `WARM_UP_S`. What takes no such inputs is
    warmed up by its first requests."""
    end = perf_counter() + WARM_UP_S
    sizes = warming_sizes(max_batch) if executor.fixed_batch is None else [executor.fixed_batch]
    with contextlib.suppress(Exception):
        for size in sizes:
            for _ in range(WARMING_ROUNDS):
                if perf_counter() > end:
                    return
                executor.run_made_up(size)


def _poller(sock: socket.socket) -> Callable[[], tuple[float, Sequence[float]]]:
    """Polls until there is something to read, for `BUSY_POLL_S` at most; tells for how long, and stalls meanwhile."""
    watched = select.poll()
    watched.register(sock, select.POLLIN)

    def poll() -> tuple[float, Sequence[float]]:
        begun = now = perf_counter()
        stalls: list[float] = []
        ready = watched.poll(0)
        while not ready and now < begun + BUSY_POLL_S:
            before = now
            ready = watched.poll(0)
            now = perf_counter()
            if now - before > STALL_S:
                stalls.append(now - before)
        return now - begun, stalls

    return poll


def _send(sock: socket.socket, body: bytes) -> None:
    send_all(sock, [SIZE.pack(len(body)), body])


def main() -> None:
    """Entry point of the process."""
    # User code that prints must not write into the output of the command that started us.
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ConnectionEnded, ConnectionError):
        serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # runtimes hold threads; there is nothing left to do for any of them


if __name__ == "__main__":
    main()
