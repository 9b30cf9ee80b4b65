"""The router's end of a replica: starting its process, sending it batches, noticing its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from inferplan.runner.frames import (
    SIZE,
    Blob,
    ConnectionEnded,
    FrameReader,
    Reply,
    batch_frame,
    read_reply,
    send_all,
    send_some,
    socket_pair,
)
from inferplan.runner.worker import Assignment
from inferplan.spec.errors import InputError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Libraries below numpy and the runtimes size their thread pools by these when they are loaded."""

POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class ReplicaName:
    """Which replica: the option, and a number that counts the option's replicas from 0."""

    option: str
    index: int

    def __str__(self) -> str:
        return f"{self.option}[{self.index}]"


class Replica:
    """One replica process. It works on one batch at a time.

    `on_reply(replica, reply)` is called for every batch, `on_end(replica, reason)` once, when the process ends
    without having been stopped.
    """

    def __init__(
        self,
        name: ReplicaName,
        assignment: Assignment,
        on_reply: Callable[[Replica, Reply], None],
        on_end: Callable[[Replica, str], None],
    ) -> None:
        self.name = name
        self.load_s = 0.0
        self._assignment = assignment
        self._parts = max(1, len(assignment.parents))
        self._on_reply = on_reply
        self._on_end = on_end
        self._reader = FrameReader()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._unsent: list[Blob] = []
        self._ready: asyncio.Future[None] | None = None
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """Process id, once started."""
        return self._process.pid if self._process else None

    async def start(self, limit_s: float) -> None:
        """Start the process and wait until its model is loaded.

        Raises InputError with what the process said, or that it took longer than `limit_s`.
        """
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        ours, theirs = socket_pair()
        threads = str(max(1, self._assignment.threads))
        try:
            self._process = subprocess.Popen(
                # -P keeps the current folder off the path: no file of the user's may stand in for a library.
                [sys.executable, "-P", "-m", "inferplan.runner.worker", str(theirs.fileno())],
                # GPUs are numbered as when they were measured.
                env={
                    **os.environ,
                    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
                    **self._shown_gpu(),
                    **dict.fromkeys(THREAD_VARIABLES, threads),
                },
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C in a terminal reaches us alone; we end the replicas in order
            )
        finally:
            theirs.close()
        self._socket = ours
        body = self._assignment.to_json()
        send_all(ours, [SIZE.pack(len(body)), body])
        ours.setblocking(False)
        loop.add_reader(ours.fileno(), self._readable)
        try:
            async with asyncio.timeout(limit_s):
                await self._ready
        except TimeoutError:
            raise InputError(f"replica {self.name} was not ready within {limit_s:g} s") from None

    def _shown_gpu(self) -> dict[str, str]:
        """What shows the process no GPU but its own, where its machine has several."""
        gpu = self._assignment.gpu
        if gpu is None:
            return {}
        listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        shown = [entry.strip() for entry in listed.split(",")] if listed else None
        if shown is not None and gpu >= len(shown):
            raise InputError(
                f"replica {self.name} is planned for GPU {gpu} of its machine, and {len(shown)} are shown here",
                [f"CUDA_VISIBLE_DEVICES is {listed}: list as many GPUs as the plan's machine has"],
            )
        return {"CUDA_VISIBLE_DEVICES": str(gpu) if shown is None else shown[gpu]}

    def send(self, items: Sequence[Sequence[Blob]]) -> None:
        """Give the replica a batch; it must be free. An end of the process is reported by `on_end`."""
        self._unsent = batch_frame(items, self._parts)
        self._write(first=True)

    async def stop(self, grace_s: float = 2.0) -> None:
        """End the process: at once where it is free, after at most `grace_s` where it is not. Never raises."""
        self._stopped = True
        self._close()
        process = self._process
        if process is None:
            return
        try:
            deadline = perf_counter() + grace_s
            while process.poll() is None and perf_counter() < deadline:
                await asyncio.sleep(POLL_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process, and whatever processes the stage code started, now."""
        self._stopped = True
        self._close()
        if self._process is not None:
            if self._process.poll() is None:
                # Not yet reaped, so the group's number is still its own.
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _write(self, *, first: bool = False) -> None:
        sock = self._socket
        if sock is None:
            return
        try:
            self._unsent = send_some(sock, self._unsent)
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = []  # the process is gone: the reading side finds out and reports it
        loop = asyncio.get_running_loop()
        if self._unsent and first:
            loop.add_writer(sock.fileno(), self._write)
        elif not self._unsent and not first:
            loop.remove_writer(sock.fileno())

    def _readable(self) -> None:
        sock = self._socket
        if sock is None:
            return
        try:
            frame = self._reader.receive(sock)
        except BlockingIOError:
            return
        except (ConnectionEnded, OSError):
            self._ended()
            return
        if frame is None:
            return
        if self._ready is not None and not self._ready.done():
            self._started(json.loads(bytes(frame)))
        else:
            self._on_reply(self, read_reply(frame))

    def _started(self, message: dict[str, object]) -> None:
        assert self._ready is not None
        if "error" in message:
            details = message.get("details")
            lines = [str(line) for line in details] if isinstance(details, list) else []
            self._ready.set_exception(InputError(f"replica {self.name} cannot start: {message['error']}", lines))
        else:
            self.load_s = float(str(message["load_s"]))
            self._ready.set_result(None)

    def _ended(self) -> None:
        self._close()
        reason = self._how_it_ended()
        if self._stopped:
            return
        self._stopped = True
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(InputError(f"replica {self.name} {reason} while starting"))
        else:
            self._on_end(self, reason)

    def _how_it_ended(self) -> str:
        if self._process is None:
            return "ended"
        try:
            code = self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # it closed its socket: it is of no use any more
            code = self._process.wait()
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit status {code}"

    def _close(self) -> None:
        sock, self._socket = self._socket, None
        if sock is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock.fileno())
        loop.remove_writer(sock.fileno())
        sock.close()
