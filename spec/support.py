"""Parts of the workload format that nothing honours yet. A workload that uses one is refused, never misread."""

from __future__ import annotations

from collections.abc import Iterator

from inferplan.spec.workload import TrafficClass, Workload

DEFAULT_UTILISATION = 0.98
_INDEPENDENT = "poisson or diurnal: their levels are independent of one another"
Path_ = tuple[str | int, ...]


def unsupported(workload: Workload) -> Iterator[tuple[Path_, str]]:
    """Fields in use that nothing honours in this version, as (path in the document, message)."""
    yield from _top(workload)
    yield from _with_mixtures(workload)
    yield from _devices(workload)
    for name, traffic in workload.classes.items():
        at: Path_ = ("classes", name)
        if traffic.trace is not None and set(workload.robustness.load_levels) - {1.0}:
            yield (*at, "trace"), "load levels are not honoured for traces; give rate_rps, or a trace of that load"
        if traffic.asks is not None:
            yield from _asks(workload, traffic, at)


def _asks(workload: Workload, traffic: TrafficClass, at: Path_) -> Iterator[tuple[Path_, str]]:
    """What is not honoured of classes whose requests name accuracy and latency alone."""
    if workload.splitting == "devices":
        yield (*at, "asks"), "classes that spread over devices have no latency promise, as asks are: splitting: false"
    if traffic.trace is not None:
        yield (*at, "trace"), f"traces are not honoured yet for a class with asks; {_INDEPENDENT}"
    elif traffic.arrivals.process not in ("poisson", "diurnal"):
        yield (
            (*at, "arrivals", "process"),
            f"process {traffic.arrivals.process} is not honoured yet for a class with asks; {_INDEPENDENT}",
        )


def _top(workload: Workload) -> Iterator[tuple[Path_, str]]:
    if workload.splitting != "devices" and workload.max_utilisation != DEFAULT_UTILISATION:
        yield (
            ("max_utilisation",),
            "max_utilisation is honoured with splitting: devices only; robustness.headroom leaves capacity unused",
        )


def _with_mixtures(workload: Workload) -> Iterator[tuple[Path_, str]]:
    """What is honoured, but not where the requests of a class go different ways."""
    jobs = [name for name, traffic in workload.classes.items() if traffic.kind == "jobs"]
    for name in jobs:
        if workload.classes[name].accuracy.floor is not None:
            yield ("classes", name, "accuracy", "floor"), "a class of jobs promises its job.mean_accuracy: give that"
    if jobs and workload.splitting == "devices":
        yield ("splitting",), "splitting: devices is not honoured for classes of jobs, whose requests are split anyway"


def _devices(workload: Workload) -> Iterator[tuple[Path_, str]]:
    for tier, places in workload.tiers.items():
        for name, device in places.devices.items():
            at: Path_ = ("tiers", tier, "devices", name)
            if device.gpu_memory_bytes is not None and device.kind == "cpu":
                yield (*at, "gpu_memory_bytes"), "a device of kind cpu has no GPU memory"
