"""Parts of the workload format that nothing honours yet. A workload that uses one is refused, never misread."""

from __future__ import annotations

from collections.abc import Iterator

from inferplan.spec.workload import Workload

Path_ = tuple[str | int, ...]


def unsupported(workload: Workload) -> Iterator[tuple[Path_, str]]:
    """Fields in use that nothing honours in this version, as (path in the document, message)."""
    yield from _top(workload)
    yield from _devices(workload)
    for name, traffic in workload.classes.items():
        at: Path_ = ("classes", name)
        if traffic.enters_at is not None:
            yield (*at, "enters_at"), "network between tiers is not honoured yet; remove this field"
        if traffic.accuracy.goal is not None:
            yield (*at, "accuracy", "goal"), "goals are not honoured yet; use floor"


def _top(workload: Workload) -> Iterator[tuple[Path_, str]]:
    if workload.splitting:
        yield ("splitting",), "splitting a class over variants is not honoured yet; splitting: false"
    if workload.routing == "tier_aware":
        yield ("routing",), "tier-aware routing is not honoured yet; routing: proportional"
    if workload.links:
        yield ("links",), "links between tiers are not honoured yet; remove them"
    if len(workload.tiers) > 1:
        yield ("tiers",), "more than one tier is not honoured yet; put the devices of one tier into one plan"


def _devices(workload: Workload) -> Iterator[tuple[Path_, str]]:
    for tier, places in workload.tiers.items():
        for name, device in places.devices.items():
            at: Path_ = ("tiers", tier, "devices", name)
            if device.exclusive:
                yield (*at, "exclusive"), "exclusive devices are not honoured yet; exclusive: false"
            if device.gpu_memory_bytes is not None and device.kind == "cpu":
                yield (*at, "gpu_memory_bytes"), "a device of kind cpu has no GPU memory"
