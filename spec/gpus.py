"""Which GPU of its machine a replica of a plan runs on: one rule, for exports and the runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inferplan.spec.plan import DeployedOption, Placement
from inferplan.spec.workload import Device

ON_GPU = ("cuda", "tensorrt")
"""Providers that run on a GPU."""


def gpus_of_replicas(
    placements: Sequence[Placement], options: Mapping[str, DeployedOption], device: Device
) -> list[tuple[str, int | None]]:
    """Option and GPU number of every replica on one machine, in the order of its placements; None: on no GPU.

    On a machine with several GPUs each replica has the next one to itself. On a machine with one they share it.
    """
    found: list[tuple[str, int | None]] = []
    taken = 0
    for placement in placements:
        for _ in range(placement.replicas):
            if options[placement.option].provider not in ON_GPU:
                found.append((placement.option, None))
                continue
            found.append((placement.option, taken % max(device.gpu_count, 1)))
            taken += 1
    return found
