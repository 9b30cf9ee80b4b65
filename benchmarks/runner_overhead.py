"""What the runner costs per request: a bare executor loop, the same model behind the router, and behind HTTP.

    python benchmarks/runner_overhead.py [--seconds 2] [--rounds 3]

One model (MLP 256-1024-1024-10, one thread), one replica on a core of its own, batches up to 32. Closed loop: c
clients, each sending its next request when the last is answered. CPU is that of the router's (server's) process
alone. The HTTP client is a bare asyncio loop in a process of its own, which shares the cores that are left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from inferplan.profilers.runtimes.executor import Executor, ExecutorSpec
from inferplan.runner import eventloop
from inferplan.runner.cores import available_cores, place_replicas
from inferplan.runner.events import Listening, ignore
from inferplan.runner.fleet import Fleet
from inferplan.runner.frames import dump
from inferplan.runner.server import serve_plan
from inferplan.spec.document import load_workload
from inferplan.spec.plan import LoadedPlan, Plan
from inferplan.spec.stage import Choice

WIDTHS = (256, 1024, 1024, 10)
MAX_BATCH = 32
WARMUP_S = 0.5
WORKLOAD = f"""\
apiVersion: inferplan/v1
name: mlp
pipeline:
  inputs: [{{name: x, dtype: float32, shape: [{WIDTHS[0]}]}}]
  outputs: [{{name: y, dtype: float32, shape: [{WIDTHS[-1]}]}}]
  stages: {{mlp: {{variants: {{only: {{model: mlp.onnx}}}}}}}}
tiers: {{here: {{devices: {{cpu: {{price_usd_per_h: 1, cores: 2, reserved_cores: 1}}}}}}}}
classes: {{web: {{rate_rps: 100}}}}
"""


@dataclass(frozen=True)
class Row:
    """One line of the table. `cpu_us` is the router's processor time per request."""

    name: str
    rate_rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None = None
    batch_mean: float = 1.0


def write_model(path: Path) -> None:
    """An MLP with ReLU between its layers."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i in range(1, len(WIDTHS)):
        shape = (WIDTHS[i - 1], WIDTHS[i])
        weights.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) * 0.05, f"w{i}"))
        final = i == len(WIDTHS) - 1
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], ["y" if final else f"h{i}"]))
        if not final:
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"]))
            last = f"r{i}"
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", w]) for n, w in (("x", WIDTHS[0]), ("y", WIDTHS[-1]))
    ]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


def deployed(folder: Path) -> LoadedPlan:
    """A plan of one replica, written by hand: the benchmark wants the runner, not the planner."""
    write_model(folder / "mlp.onnx")
    (folder / "workload.yaml").write_text(WORKLOAD)
    loaded = load_workload(folder)
    latencies = {f"latency_{part}_s": {"value": 0.001} for part in ("mean", "p50", "p90", "p99")}
    plan = Plan.model_validate({
        "name": "mlp", "objective": "none", "cost_usd_per_h": 1.0,
        "workload": {"path": "workload.yaml", "sha256": loaded.sha256},
        "profile": {"sha256": "0" * 64, "fingerprints": []},
        "proof": {"solver": "hand", "status": "feasible", "objective": 1.0, "bound": 1.0, "gap": 0.0},
        "classes": {"web": {
            "rate_rps": 100.0, "routes": {"mlp": [{"option": "mlp", "share": 1.0}]},
            "predicted": {"throughput_rps": 100.0, **latencies},
        }},
        "options": {"mlp": {
            "stage": "mlp", "variant": "only", "runtime": "onnxruntime", "provider": "cpu", "device": "here/cpu",
            "model_sha256": "0" * 64, "threads": 1, "max_batch": MAX_BATCH, "max_queue_delay_s": 0.0, "replicas": 1,
            "predicted": {"load_rps": 100.0, "utilisation": 0.1, "batch_mean": 1.0, "latency_mean_s": 0.001,
                          "latency_tail_s": 0.002},
        }},
        "machines": {"here/cpu": {"count": 1, "price_usd_per_h": 1.0, "packing": [[{"option": "mlp", "replicas": 1}]]}},
    }, by_alias=True, by_name=True)  # fmt: skip
    return LoadedPlan(plan, folder / "plan.yaml", loaded)


def row(name: str, latencies: list[float], seconds: float, cpu_s: float | None = None, batch_mean: float = 1.0) -> Row:
    """A line from the latencies of `seconds` of measuring."""
    p50, p99 = np.quantile(latencies, [0.5, 0.99]) * 1e3
    cpu_us = None if cpu_s is None else cpu_s / len(latencies) * 1e6
    return Row(name, len(latencies) / seconds, float(p50), float(p99), cpu_us, batch_mean)


@contextmanager
def on_last_core() -> Iterator[None]:
    """Keep this process where the replica will be."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, available_cores()[-1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def bare(loaded: LoadedPlan, seconds: float, batch: int) -> Row:
    """The executor in a loop, in this process, on the core that the replica will have."""
    workload = loaded.workload.workload
    stage = workload.pipeline.stages["mlp"]
    spec = ExecutorSpec.of(workload.root, "mlp", stage, Choice("only"))
    executor = Executor.from_spec(spec)
    inputs = executor.made_up_inputs(batch)
    latencies: list[float] = []
    with on_last_core():
        start = time.perf_counter() + WARMUP_S
        while (now := time.perf_counter()) < start + seconds:
            executor.execute(inputs)
            if now >= start:
                latencies.append(time.perf_counter() - now)
    one = row(f"bare executor, batch {batch}", latencies, seconds, None, batch)
    return Row(one.name, one.rate_rps * batch, one.p50_ms, one.p99_ms, None, batch)


def routed(loaded: LoadedPlan, seconds: float, clients: int) -> Row:
    """Requests through router and replica, no HTTP."""
    item = dump({"x": np.random.default_rng(0).standard_normal(WIDTHS[0]).astype(np.float32)})

    async def main() -> Row:
        placing = place_replicas(loaded, available_cores(), oversubscribe=True)
        async with Fleet(loaded, placing, seed=0, restart=False, start_limit_s=60, on_event=ignore) as fleet:
            loop = asyncio.get_running_loop()
            start = loop.time() + WARMUP_S
            latencies: list[float] = []

            def send() -> None:
                fleet.router.submit("web", item, partial(answered, loop.time()))

            def answered(sent: float, result: object) -> None:
                now = loop.time()
                if now >= start:
                    latencies.append(now - sent)
                if now < start + seconds:
                    loop.call_soon(send)

            for _ in range(clients):
                loop.call_soon(send)
            await asyncio.sleep(WARMUP_S)
            cpu, stats = time.process_time() - eventloop.polled_s(), fleet.router.pools["mlp"].stats
            before = stats.calls, stats.batch_sizes.total()
            await asyncio.sleep(seconds)
            calls, batches = stats.calls - before[0], stats.batch_sizes.total() - before[1]
            mean = calls / max(1, batches)
            cpu = time.process_time() - eventloop.polled_s() - cpu
            return row(f"router and replica, c={clients}", latencies, seconds, cpu, mean)

    return eventloop.run(main)


class Client(asyncio.Protocol):
    """Sends one prepared HTTP request after another over one connection."""

    def __init__(self, request: bytes, latencies: list[float], start: float) -> None:
        self._request, self._latencies, self._start = request, latencies, start
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]):
            return
        assert head.startswith(b"HTTP/1.1 200"), self._got[:300]
        self._got = b""
        now = time.perf_counter()
        if now >= self._start:
            self._latencies.append(now - self._sent)
        self._send()


def http_request(binary: bool) -> bytes:
    """An inference request as it goes over the wire."""
    x = np.random.default_rng(0).standard_normal(WIDTHS[0]).astype(np.float32)
    tensor: dict[str, object] = {"name": "x", "datatype": "FP32", "shape": [1, WIDTHS[0]]}
    if binary:
        tensor["parameters"] = {"binary_data_size": x.nbytes}
        text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        extra, body = f"Inference-Header-Content-Length: {len(text)}\r\n", text + x.tobytes()
    else:
        extra, body = "", json.dumps({"inputs": [{**tensor, "data": x.tolist()}]}).encode()
    head = f"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: x\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def serve(folder: Path, told: Connection) -> None:
    """The server's process."""

    def on_event(event: object) -> None:
        if isinstance(event, Listening):
            told.send(event.url)

    serve_plan(deployed(folder), port=0, oversubscribe=True, on_event=on_event)


@contextmanager
def server(folder: Path) -> Iterator[tuple[psutil.Process, int]]:
    """A server: its process and port."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(folder, theirs))
    process.start()
    try:
        port = int(ours.recv().rpartition(":")[2])
        yield psutil.Process(process.pid), port
    finally:
        assert process.pid is not None
        psutil.Process(process.pid).send_signal(signal.SIGINT)
        process.join()


def served(process: psutil.Process, port: int, seconds: float, clients: int, binary: bool) -> Row:
    """Requests over HTTP from this process."""

    async def main() -> Row:
        latencies: list[float] = []
        loop = asyncio.get_running_loop()
        make: Callable[[], Client] = partial(Client, http_request(binary), latencies, time.perf_counter() + WARMUP_S)
        opened = [await loop.create_connection(make, "127.0.0.1", port) for _ in range(clients)]
        await asyncio.sleep(WARMUP_S)
        before = process.cpu_times()
        await asyncio.sleep(seconds)
        after = process.cpu_times()
        for transport, _ in opened:
            transport.close()
        cpu_s = after.user + after.system - before.user - before.system
        return row(f"HTTP {'binary' if binary else 'JSON'}, c={clients}", latencies, seconds, cpu_s, float("nan"))

    return asyncio.run(main())


def rounds(folder: Path, seconds: float, count: int) -> list[Row]:
    """Every line's best round: what else the machine does only ever makes one slower."""
    loaded = deployed(folder)
    best: dict[str, Row] = {}
    with server(folder) as (process, port):
        for _ in range(count):
            rows = [bare(loaded, seconds, batch) for batch in (1, 8, 32)]
            rows += [routed(loaded, seconds, clients) for clients in (1, 4, 16, 64)]
            for binary in (True, False):
                rows += [served(process, port, seconds, clients, binary) for clients in (1, 16, 64)]
            for one in rows:
                if one.name not in best or one.rate_rps > best[one.name].rate_rps:
                    best[one.name] = one
    return list(best.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time per line and round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; each line shows its best")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = rounds(Path(name), arguments.seconds, arguments.rounds)
    print(f"{'':28} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'router CPU us':>14} {'batch':>6}")
    for one in rows:
        cpu = "" if one.cpu_us is None else f"{one.cpu_us:.0f}"
        batch = "" if np.isnan(one.batch_mean) else f"{one.batch_mean:.1f}"
        print(f"{one.name:28} {one.rate_rps:10.0f} {one.p50_ms:8.3f} {one.p99_ms:8.3f} {cpu:>14} {batch:>6}")


if __name__ == "__main__":
    main()
