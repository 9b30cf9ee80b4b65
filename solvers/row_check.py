"""The checker's part on measurements: which rows of a profile an option's times come from.

Part of `checker`; shares no code with the solver or the estimators.
"""

from __future__ import annotations

import json
import math

from inferplan.spec.plan import DeployedOption
from inferplan.spec.profile import Profile
from inferplan.spec.rows import Measurement
from inferplan.spec.workload import Workload

_RANKS = ("imported", "interpolated", "measured")


def counted_rows(option: DeployedOption, workload: Workload, profile: Profile) -> dict[int, Measurement]:
    """The rows of an option that count, by batch up to its largest: of the newest state of machine, runtime and code
    alone a measured one, else an interpolated; an imported one where nothing was measured with as many threads."""
    device = workload.devices()[option.device]
    measured_on = device.like.device if device.like else option.device
    settings = workload.pipeline.stages[option.stage].variants[option.variant].options.changed()
    rows = [
        row
        for row in profile.measurements
        if row.status == "ok"
        and (row.key.stage, row.key.variant) == (option.stage, option.variant)
        and (row.key.modalities, row.key.runtime) == ("+".join(sorted(option.modalities)), option.runtime)
        and (row.key.device, row.key.provider) == (measured_on, option.provider)
        and (row.key.model_sha256, json.loads(row.key.options or "{}")) == (option.model_sha256, settings)
    ]
    own = _of_newest_state([row for row in rows if row.origin != "imported"])
    imported = [row for row in rows if row.origin == "imported"]
    measured = {row.key.threads for row in own if row.origin == "measured"}
    own += _of_newest_state([row for row in imported if row.key.threads not in measured])
    # Later ones replace earlier ones.
    best = sorted(own, key=lambda row: (_RANKS.index(row.origin), row.measured_at, row.key.id()))
    return {
        row.key.batch: row for row in best if row.key.threads == option.threads and row.key.batch <= option.max_batch
    }


def _of_newest_state(rows: list[Measurement]) -> list[Measurement]:
    """Rows of the machine, runtime version, code and source of inputs of the newest, if there is one measured."""

    def state(row: Measurement) -> tuple[str, ...]:
        key = row.key
        return key.device_fingerprint, key.runtime_version, key.code_sha256, key.inputs

    newest = max(rows, key=lambda row: (row.origin == "measured", row.measured_at, row.key.id()), default=None)
    return [row for row in rows if newest is not None and state(row) == state(newest)]


def handoff_s(row: Measurement, profile: Profile, batch: int | None = None) -> float:
    """Mean time of handing a batch (the row's, unless one is given) to a replica and back, where it was measured on
    the row's machine."""
    place = (row.key.stage, row.key.device, row.key.device_fingerprint)
    for one in profile.handoffs:
        if one.status == "ok" and (one.stage, one.device, one.device_fingerprint) == place:
            times = json.loads(one.handoffs_s)
            further = ((row.key.batch if batch is None else batch) - 1) * (one.handoff_call_s or 0.0)
            return math.fsum(times) / len(times) + further if times else 0.0
    return 0.0
