"""The one meaning of batching is that of the real server: same arrivals, same batches, same latencies."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferplan.estimators.network import Station
from inferplan.estimators.service import ServiceModel, ServicePoint
from inferplan.estimators.simulation import station
from inferplan.estimators.simulation.station import Served

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: {batch}
input [{{ name: "x" data_type: TYPE_FP32 dims: [ 1 ] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [ 1 ] }}]
instance_group [{{ count: {instances} kind: KIND_CPU }}]
dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}
"""

# A batch of n takes 10 + 5 n milliseconds, however busy the machine is.
MODEL = """
import time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        time.sleep(0.010 + 0.005 * sum(len(array) for array in arrays))
        return [pb.InferenceResponse([pb.Tensor("y", array)]) for array in arrays]
"""


@pytest.mark.parametrize(
    ("batch", "delay_s", "instances", "rate_rps"),
    [(4, 0.0, 1, 95.0), (4, 0.02, 1, 60.0), (2, 0.005, 2, 130.0)],
    ids=["never waits", "waits to fill", "two instances"],
)
def test_batches_and_latencies_are_those_of_a_real_server(
    batch: int, delay_s: float, instances: int, rate_rps: float, serve: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "repository" / "sleeper"
    (folder / "1").mkdir(parents=True)
    delay_us = round(delay_s * 1e6)
    config = CONFIG.format(name="sleeper", batch=batch, instances=instances, delay_us=delay_us)
    (folder / "config.pbtxt").write_text(config)
    (folder / "1/model.py").write_text(MODEL)
    rng = np.random.default_rng(7)
    arrivals_s = np.cumsum(rng.exponential(1 / rate_rps, 600))
    with serve(tmp_path / "repository") as server:
        before = statistics(server)
        sent_s, latencies_s = drive(server.grpc, arrivals_s)
        after = statistics(server)
    counts = {size: after[size][0] - before.get(size, (0, 0.0))[0] for size in after}
    means_s = {size: seconds / count for size, (count, seconds) in after.items()}
    points = tuple(ServicePoint(size, means_s[size]) for size in sorted(means_s))
    assert [point.batch for point in points] == list(range(1, batch + 1))
    replicas = Station("s", "s", "v", instances, batch, delay_s, ServiceModel(points))
    ours = station.serve(sent_s, replicas, np.random.default_rng(0))

    shares = np.array([counts[size] for size in range(1, batch + 1)]) / sum(counts.values())
    assert shares == pytest.approx(our_shares(ours, batch), abs=0.06)
    simulated_s = ours.done_s - sent_s
    assert float(latencies_s.mean()) == pytest.approx(float(simulated_s.mean()), rel=0.1)
    for level in (0.5, 0.9, 0.99):
        assert np.quantile(latencies_s, level) == pytest.approx(np.quantile(simulated_s, level), rel=0.15)


def our_shares(served: Served, batch: int) -> list[float]:
    counted = Counter(served.sizes.tolist())
    return [counted[size] / len(served.sizes) for size in range(1, batch + 1)]


def statistics(server: Any) -> dict[int, tuple[int, float]]:
    """Batch size -> how many such batches were run, and the seconds they took."""
    with urllib.request.urlopen(f"http://{server.http}/v2/models/sleeper/stats", timeout=5) as answer:
        (stats,) = json.load(answer)["model_stats"]
    parts = ("compute_input", "compute_infer", "compute_output")
    return {
        one["batch_size"]: (one["compute_infer"]["count"], sum(one[part]["ns"] for part in parts) / 1e9)
        for one in stats["batch_stats"]
    }


def drive(address: str, arrivals_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Open loop: every request at its time, whatever became of the others. When each was really sent, and how long it
    took from then on, in seconds."""
    from tritonclient import grpc

    client = grpc.InferenceServerClient(address)
    entry = grpc.InferInput("x", [1, 1], "FP32")
    entry.set_data_from_numpy(np.zeros((1, 1), np.float32))
    sent_s, latencies_s = np.zeros(len(arrivals_s)), np.zeros(len(arrivals_s))
    answered = threading.Semaphore(0)
    problems: list[Any] = []
    client.infer("sleeper", [entry])
    start = time.perf_counter() + 0.1
    for index, arrival_s in enumerate(arrivals_s):
        time.sleep(max(0.0, start + arrival_s - time.perf_counter()))
        sent_s[index] = time.perf_counter() - start

        def done(result: Any, error: Any, index: int = index) -> None:
            latencies_s[index] = time.perf_counter() - start - sent_s[index]
            if error is not None:
                problems.append(error)
            answered.release()

        client.async_infer("sleeper", [entry], done)
    for _ in arrivals_s:
        assert answered.acquire(timeout=30)
    client.close()
    assert problems == []
    return sent_s, latencies_s
