"""The parent's side of the measuring process: start it, ask it, watch its time and memory, end it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any

from inferplan.profilers.frames import Decoder, Frame, FrameError, says_memory
from inferplan.profilers.sensors import resident_bytes
from inferplan.spec.rows import Status

_TICK_S = 0.05
"""How often memory is looked at while waiting."""
_STDERR_KEPT_BYTES = 8192
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class WorkerFailure(Exception):
    """The measuring process could not do what it was asked to. Not shown as such: it becomes a row.

    `raised`: code in the process raised an error; the process itself is well.
    """

    def __init__(self, status: Status, reason: str, raised: bool = False) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.reason = reason
        self.raised = raised


@dataclass(frozen=True, slots=True)
class Limits:
    """What a measuring process may use. `step_s` is the longest time between two signs of life."""

    step_s: float
    memory_bytes: int


class WorkerProcess:
    """A fresh measuring process in a process group of its own. Use it as a context manager.

    `cores` pins it; `threads` is what BLAS and OpenMP libraries in the user's code are told to use.
    """

    def __init__(self, limits: Limits, threads: int, cores: Sequence[int] = (), bounded_data: bool = True) -> None:
        self._limits = limits
        self._decoder = Decoder()
        self._stderr = bytearray()
        self._selector = selectors.DefaultSelector()
        results_read, results_write = os.pipe()
        lifeline_read, self._lifeline = os.pipe()
        # Private writable memory, touched or not: a backstop for what grows faster than it can be watched.
        data_limit = 2 * limits.memory_bytes + 2**30 if bounded_data and sys.platform == "linux" else 0
        fds = (results_write, lifeline_read)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "inferplan.profilers.worker", *map(str, fds), str(data_limit)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=fds,
                start_new_session=True,
                env=_environment(threads),
            )
        except BaseException:
            os.close(results_read)
            os.close(self._lifeline)
            raise
        finally:
            for descriptor in fds:
                os.close(descriptor)
        self._results = results_read
        assert self._process.stderr is not None
        self._selector.register(results_read, selectors.EVENT_READ, "results")
        self._selector.register(self._process.stderr, selectors.EVENT_READ, "stderr")
        if cores and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(self._process.pid, cores)

    @property
    def pid(self) -> int:
        """Its process id, which is that of its group as well."""
        return self._process.pid

    def ask(self, do: str, **options: Any) -> Iterator[Frame]:
        """Send a command and yield its answers up to and without the caller's having to know the last one:
        stop iterating after the frame that ends the command. Raises WorkerFailure."""
        line = json.dumps({"do": do, **options}).encode() + b"\n"
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        while True:
            frame = self._next()
            if frame.event == "error":
                status: Status = "out_of_memory" if frame.data.get("memory") else "failed"
                raise WorkerFailure(status, _shortened(str(frame.data["message"])), raised=True)
            yield frame

    def call(self, do: str, until: str, **options: Any) -> Frame:
        """Send a command and wait for its frame `until`. Raises WorkerFailure."""
        for frame in self.ask(do, **options):
            if frame.event == until:
                return frame
        raise AssertionError("answers end with a frame or an error")

    def close(self) -> None:
        """End it and everything it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        for descriptor in (self._results, self._lifeline):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> Frame:
        """The next frame, within the step time and the memory limit."""
        deadline = monotonic() + self._limits.step_s
        while True:
            try:
                frame = self._decoder.next()
            except FrameError as error:
                raise WorkerFailure("failed", str(error)) from error
            if frame is not None:
                return frame
            if not self._read():
                raise self._ended()
            self._check_memory()
            if monotonic() > deadline:
                raise WorkerFailure("timeout", f"no answer within {self._limits.step_s:g} s{self._said()}")

    def _read(self) -> bool:
        """Read what is there; False at the end of the results."""
        for key, _ in self._selector.select(_TICK_S):
            content = os.read(key.fd, 1 << 20)
            if key.data == "stderr":
                self._stderr = (self._stderr + content)[-_STDERR_KEPT_BYTES:]
                if not content:
                    self._selector.unregister(key.fileobj)
            elif content:
                self._decoder.feed(content)
            else:
                return False
        return True

    def _check_memory(self) -> None:
        used = resident_bytes(self._process.pid)
        if used > self._limits.memory_bytes:
            raise WorkerFailure(
                "out_of_memory",
                f"used {used / 2**20:.0f} MiB, more than the limit of {self._limits.memory_bytes / 2**20:.0f} MiB",
            )

    def _ended(self) -> WorkerFailure:
        """Why the process is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        self._drain()
        code = self._process.poll()
        if code is None:
            what = "closed its results"
        elif code < 0:
            what = f"was killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                what += " from outside (the system does this when memory runs out)"
        else:
            what = f"ended by itself with code {code}"
        said = self._said()
        status: Status = "out_of_memory" if says_memory(said) else "failed"
        return WorkerFailure(status, f"the measuring process {what}{said}")

    def _drain(self) -> None:
        while any(key.data == "stderr" for key in self._selector.get_map().values()):
            events = [(key, mask) for key, mask in self._selector.select(0.2) if key.data == "stderr"]
            if not events:
                return
            content = os.read(events[0][0].fd, 1 << 16)
            self._stderr = (self._stderr + content)[-_STDERR_KEPT_BYTES:]
            if not content:
                self._selector.unregister(events[0][0].fileobj)

    def _said(self) -> str:
        said = _gist(self._stderr.decode(errors="replace"))
        return f"; it said: {_shortened(said)}" if said else ""


def _environment(threads: int) -> dict[str, str]:
    # A fixed hash seed: sets in the user's data are pickled, and so hashed, in one order. GPUs are numbered by
    # their place on the bus, as NVML does: what is watched is what is measured.
    variables = {name: str(threads) for name in _THREAD_VARIABLES}
    return {**os.environ, **variables, "PYTHONHASHSEED": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _gist(text: str) -> str:
    """The telling end of standard error: the innermost frame of a crash, else the last lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for index, line in enumerate(lines):
        if line.startswith("Fatal Python error"):
            frames = [other for other in lines[index:] if other.startswith("File ")]
            return " / ".join([*lines[max(0, index - 2) : index + 1], *frames[:1]])
    return " / ".join(lines[-3:])


def _shortened(text: str, most: int = 600) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most] + " ..."
